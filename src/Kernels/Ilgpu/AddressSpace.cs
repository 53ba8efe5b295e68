using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;

namespace AuxCore.Kernels;

/// <summary>
/// All memory that an accelerator reaches, as one ILGPU buffer that begins at address 0 and that nobody allocated. So memory of whomever is
/// viewed, copied and filled by its address, without an ILGPU object for each piece of it; the memory's owner keeps it alive meanwhile.
/// </summary>
/// <remarks>On CUDA that includes pinned and pageable host memory, as sources and destinations of copies.</remarks>
internal sealed class AddressSpace(Accelerator accelerator) : MemoryBuffer(accelerator, long.MaxValue, sizeof(byte))
{
    /// <summary>Elements at an address.</summary>
    /// <param name="address">A multiple of the element's size: ILGPU counts in elements from the buffer's beginning.</param>
    /// <param name="length">Elements.</param>
    /// <exception cref="ArgumentException">The address is no such multiple.</exception>
    public unsafe ArrayView<T> View<T>(nint address, long length) where T : unmanaged
    {
        if (address % sizeof(T) != 0)
            throw new ArgumentException($"0x{address:x} is no multiple of {typeof(T).Name}'s {sizeof(T)} bytes", nameof(address));
        return new ArrayView<T>(this, address / sizeof(T), length);
    }

    /// <inheritdoc/>
    protected override unsafe void MemSet(AcceleratorStream stream, byte value, in ArrayView<byte> targetView)
    {
        if (Accelerator is CudaAccelerator)
            CudaMemoryBuffer.CudaMemSet((CudaStream)stream, value, targetView);
        else
            CPUMemoryBuffer.CPUMemSet((nint)((IContiguousArrayView)targetView).IndexInBytes, value, 0, targetView.LengthInBytes);
    }

    /// <inheritdoc/>
    protected override void CopyFrom(AcceleratorStream stream, in ArrayView<byte> sourceView, in ArrayView<byte> targetView) =>
        Copy(stream, sourceView, targetView);

    /// <inheritdoc/>
    protected override void CopyTo(AcceleratorStream stream, in ArrayView<byte> sourceView, in ArrayView<byte> targetView) =>
        Copy(stream, sourceView, targetView);

    /// <summary>There is nothing to free.</summary>
    protected override void DisposeAcceleratorObject(bool disposing)
    {
    }

    private void Copy(AcceleratorStream stream, in ArrayView<byte> source, in ArrayView<byte> target)
    {
        if (Accelerator is CudaAccelerator)
            CudaMemoryBuffer.CudaCopy((CudaStream)stream, source, target);
        else
            CPUMemoryBuffer.CPUCopy(stream, source, target);
    }
}
