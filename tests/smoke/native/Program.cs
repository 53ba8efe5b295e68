using AuxCore.Interop;
using AuxCore.Kernels;

// The library comes from its package; without a driver it says so, with a device it works.
Console.WriteLine(AuxRuntime.Describe());
if (!AuxRuntime.IsAvailable(AuxBackend.Cuda, out var reason))
{
    if (!reason.Contains("no CUDA driver: libcuda.so.1", StringComparison.Ordinal) && reason != "the CUDA driver finds no device")
        throw new InvalidOperationException($"AuxCore.Native.linux-x64 did not bring a library that loads: {reason}");
    return;
}

using var source = DeviceBuffer.CopyOf<float>([1, 0, -4]);
using var average = DeviceBuffer.CopyOf<float>([0, 8, -4]);
EmaUpdate.Run(average.View(3), source.View(3), decay: 0.75);
if (!average.ToArray().SequenceEqual([0.25f, 6, -4]))
    throw new InvalidOperationException($"EmaUpdate on the device: [{string.Join(", ", average.ToArray())}]");
