using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;
using CudaStream = ILGPU.Runtime.Cuda.CudaStream;

namespace AuxCore.Kernels;

/// <summary>
/// Memory that somebody else allocated, as an ILGPU buffer: it is viewed, copied and filled like any other, and never freed.
/// </summary>
internal sealed class ForeignMemory : MemoryBuffer
{
    /// <param name="accelerator">Where the memory is: on CUDA in the accelerator's context, else on the host.</param>
    /// <param name="address">Its first byte.</param>
    /// <param name="bytes">How many there are.</param>
    public ForeignMemory(Accelerator accelerator, nint address, long bytes)
        : base(accelerator, bytes, sizeof(byte)) => NativePtr = address;

    /// <summary>Everything from address 0 on.</summary>
    public static ForeignMemory All(Accelerator accelerator) => new(accelerator, 0, long.MaxValue);

    /// <summary>The whole memory as elements of a type; bytes at the end that are no whole element are left out.</summary>
    public unsafe ArrayView<T> View<T>() where T : unmanaged => new(this, 0, Length / sizeof(T));

    /// <inheritdoc/>
    protected override void MemSet(AcceleratorStream stream, byte value, in ArrayView<byte> targetView)
    {
        if (Accelerator is CudaAccelerator)
            CudaMemoryBuffer.CudaMemSet((CudaStream)stream, value, targetView);
        else
            CPUMemoryBuffer.CPUMemSet(AddressOf(targetView), value, 0, targetView.LengthInBytes);
    }

    /// <inheritdoc/>
    protected override void CopyFrom(AcceleratorStream stream, in ArrayView<byte> sourceView, in ArrayView<byte> targetView) =>
        Copy(stream, sourceView, targetView);

    /// <inheritdoc/>
    protected override void CopyTo(AcceleratorStream stream, in ArrayView<byte> sourceView, in ArrayView<byte> targetView) =>
        Copy(stream, sourceView, targetView);

    /// <summary>Forgets the address; the memory is its owner's to free.</summary>
    protected override void DisposeAcceleratorObject(bool disposing) => NativePtr = 0;

    private void Copy(AcceleratorStream stream, in ArrayView<byte> source, in ArrayView<byte> target)
    {
        if (Accelerator is CudaAccelerator)
            CudaMemoryBuffer.CudaCopy((CudaStream)stream, source, target);
        else
            CPUMemoryBuffer.CPUCopy(stream, source, target);
    }

    private nint AddressOf(IContiguousArrayView view) => NativePtr + (nint)view.IndexInBytes;
}
