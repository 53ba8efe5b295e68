using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>A tensor's elements where the host can read them: the tensor itself, or a copy of device memory.</summary>
internal readonly unsafe struct HostCopy : IDisposable
{
    private readonly object? _owner;
    private readonly void* _copy;

    private HostCopy(void* address, void* copy, object? owner)
    {
        Address = address;
        _copy = copy;
        _owner = owner;
    }

    /// <summary>The first element; null for a view without elements.</summary>
    public void* Address { get; }

    /// <summary>Waits for the stream, if the tensor is on a device.</summary>
    /// <param name="view">A contiguous tensor.</param>
    /// <param name="stream">Where the copy is ordered; the default stream without.</param>
    /// <param name="operation">What it is for; messages name it.</param>
    /// <exception cref="CudaException">The driver failed.</exception>
    public static HostCopy Of(in TensorView view, CudaStream? stream, string operation)
    {
        if (view.Device.Kind == AuxDeviceKind.Host || view.ElementCount == 0)
            return new((void*)view.Address, null, view.Owner);
        var context = CudaContext.Of(view.Device.Index, operation);
        var on = CudaStream.HandleOn(stream, view.Device, nameof(stream));
        var copy = NativeMemory.Alloc((nuint)view.ByteCount);
        var status = Native.CopyToHost(context.Handle, on, copy, (ulong)view.Address, view.ByteCount);
        if (status != NativeStatus.Ok)
        {
            var error = NativeStatus.ToException(status, operation, NativeStatus.LastMessage());
            NativeMemory.Free(copy);
            throw error;
        }

        GC.KeepAlive(stream);
        return new(copy, copy, view.Owner);
    }

    public void Dispose()
    {
        NativeMemory.Free(_copy);
        GC.KeepAlive(_owner);
    }
}
