using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Checks of indices in device memory.</summary>
internal static unsafe class DeviceIndices
{
    /// <summary>Refuses indices that are not below a limit, naming the first. Waits for the stream.</summary>
    /// <exception cref="ArgumentOutOfRangeException">An index is out of range.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    public static void Require(int* indices, int count, int limit, AuxDevice device, nint stream, string name, string operation)
    {
        var context = CudaContext.Of(device.Index, operation).Handle;
        NativeStatus.Check(Native.FirstBadIndex(context, stream, indices, count, limit, out var first), operation);
        if (first >= count)
            return;
        int value;
        NativeStatus.Check(Native.CopyToHost(context, stream, &value, (ulong)(indices + first), sizeof(int)), operation);
        throw new ArgumentOutOfRangeException(name, value, $"{name}[{first}] is not within 0 and {limit - 1}.");
    }
}
