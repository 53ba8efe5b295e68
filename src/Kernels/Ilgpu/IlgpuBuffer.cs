using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using AuxCore.Interop;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// Memory that an op keeps on an ILGPU device: tables, scratch. libauxcore allocates it, in the same context, because ILGPU's own buffers
/// are finalised by ILGPU, which binds its context to the collector's thread and lets an exception there end the process.
/// </summary>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal sealed unsafe class IlgpuBuffer<T> : IDisposable where T : unmanaged
{
    private readonly CudaContext? _context; // null on the CPU accelerator
    private readonly NativeHandle? _memory; // null without elements

    /// <param name="device">Where.</param>
    /// <param name="length">Elements; their contents are undefined.</param>
    /// <param name="operation">The op; messages name it.</param>
    /// <exception cref="CudaException">The device has not that much memory, or the driver failed.</exception>
    public IlgpuBuffer(IlgpuDevice device, int length, string operation)
    {
        var bytes = (long)length * sizeof(T);
        if (device.CudaOrdinal is { } ordinal)
            _context = CudaContext.Of(ordinal, operation);
        if (length > 0)
            _memory = _context is null ? new HostAllocation(bytes) : new DeviceAllocation(_context, bytes, operation);
        View = device.View<T>(_memory?.DangerousGetHandle() ?? 0, length);
    }

    /// <summary>All of it.</summary>
    public ArrayView<T> View { get; }

    /// <summary>Copies host memory to the beginning; complete when it returns.</summary>
    /// <param name="values">At most as many as there are elements.</param>
    /// <param name="stream">The CUstream on which the copy is ordered.</param>
    /// <param name="operation">The op; messages name it.</param>
    public void CopyFrom(ReadOnlySpan<T> values, nint stream, string operation)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(values.Length, View.Length);
        if (_memory is null)
            return;
        var address = _memory.DangerousGetHandle();
        if (_context is null)
            values.CopyTo(new Span<T>((void*)address, values.Length));
        else
        {
            fixed (T* first = values)
            {
                NativeStatus.Check(
                    Native.CopyToDevice(_context.Handle, stream, (ulong)address, first, (long)values.Length * sizeof(T)), operation);
            }
        }

        GC.KeepAlive(this);
    }

    /// <summary>Frees the memory, after the device has come to the end of its work.</summary>
    public void Dispose() => _memory?.Dispose();

    private sealed class DeviceAllocation : NativeHandle
    {
        private readonly CudaContext _context;

        public DeviceAllocation(CudaContext context, long bytes, string operation)
        {
            _context = context;
            NativeStatus.Check(Native.Allocate(context.Handle, bytes, out var address), operation);
            SetHandle((nint)address);
        }

        protected override int Release(nint handle) => Native.Free(_context.Handle, (ulong)handle);
    }

    // Aligned as a device's is.
    private sealed class HostAllocation : NativeHandle
    {
        public HostAllocation(long bytes) => SetHandle((nint)NativeMemory.AlignedAlloc((nuint)bytes, 256));

        protected override int Release(nint handle)
        {
            NativeMemory.AlignedFree((void*)handle);
            return NativeStatus.Ok;
        }
    }
}
