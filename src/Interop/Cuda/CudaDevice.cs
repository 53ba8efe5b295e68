using System.Runtime.CompilerServices;
using System.Text;

namespace AuxCore.Interop;

/// <summary>A CUDA device of this machine.</summary>
/// <param name="Ordinal">Its number, from 0; that of <see cref="AuxDevice.Index"/>.</param>
/// <param name="Name">As the driver calls it.</param>
/// <param name="ComputeCapability">Such as 9.0.</param>
/// <param name="Multiprocessors">How many it has.</param>
/// <param name="MemoryBytes">All of its memory.</param>
/// <param name="DriverVersion">The CUDA version that the driver serves, such as 12.4.</param>
public sealed record CudaDevice(
    int Ordinal, string Name, Version ComputeCapability, int Multiprocessors, long MemoryBytes, Version DriverVersion)
{
    /// <summary>How many devices there are; 0 where the native library or the driver is not there.</summary>
    public static int Count => CudaLibrary.HasDevice(out _) && Native.DeviceCount(out var count) == NativeStatus.Ok ? count : 0;

    /// <summary>Describes a device.</summary>
    /// <param name="ordinal">Which, from 0.</param>
    /// <exception cref="BackendUnavailableException">The library, the driver or the device is not there.</exception>
    public static unsafe CudaDevice Get(int ordinal)
    {
        var context = CudaContext.Of(ordinal, nameof(CudaDevice));
        var device = new Native.DeviceDescription { StructSize = (uint)Unsafe.SizeOf<Native.DeviceDescription>() };
        NativeStatus.Check(Native.DescribeDevice(context.Handle, ref device), nameof(CudaDevice));
        ReadOnlySpan<byte> name = device.Name;
        var end = name.IndexOf((byte)0);
        return new CudaDevice(
            device.Ordinal,
            Encoding.UTF8.GetString(end < 0 ? name : name[..end]),
            new Version(device.ComputeMajor, device.ComputeMinor),
            device.Multiprocessors,
            device.MemoryBytes,
            new Version(device.DriverVersion / 1000, device.DriverVersion % 1000 / 10));
    }
}
