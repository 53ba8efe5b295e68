using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Moves the kept tokens' rows together: hidden states, position ids, labels, keys and values of all layers in one call, into other memory
/// or in place; and its backward, which spreads gradients over the tokens that were there. It is what pruning methods write as
/// <c>index_select</c>, <c>gather</c> or <c>masked_select</c>, tensor by tensor.
/// </summary>
/// <remarks>
/// Destination row j is source row indices[j], bit for bit. As indices ascend, a row never moves past one that is still to be read, so
/// in-place compaction needs no copy. The backward is gradient[i] = slots[i] ≥ 0 ? outputGradient[slots[i]] : 0, each row written once.
/// Threads share strips of rows, or rows; the result does not depend on how. Thread-safe, as far as no two calls write one tensor. Device
/// memory is not waited for, so what segments and a selection say is not checked there: rows of an index that is none become zero, and none
/// is written beyond a destination.
/// </remarks>
public static partial class TokenCompact
{
    internal static readonly OpSupport Support = new(
        nameof(TokenCompact),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Compacts rows.</summary>
    /// <param name="source">[N, width], row-major.</param>
    /// <param name="width">Elements of a row, at least 1.</param>
    /// <param name="indices">[K], ascending within [0, N), as <see cref="TokenSelect"/> writes them.</param>
    /// <param name="destination">
    /// [K, width] or more, of which the rest is left as it was. It may begin where the source does, and must not overlap it otherwise.
    /// </param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, indices do not ascend or are outside the source, or spans overlap. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run<T>(
        ReadOnlySpan<T> source, int width, ReadOnlySpan<int> indices, Span<T> destination, AuxBackend backend = AuxBackend.Auto)
        where T : unmanaged
    {
        var rows = RowsOf(source.Length, width, nameof(source));
        if (destination.Length % width != 0 || destination.Length / width < indices.Length)
        {
            throw new ArgumentException(
                $"destination: {destination.Length} elements are not {indices.Length} rows of {width} or more", nameof(destination));
        }

        var type = DTypes.Of<T>();
        fixed (T* from = source, to = destination)
        fixed (int* kept = indices)
        {
            int* segments = stackalloc int[] { 0, rows }, offsets = stackalloc int[] { 0, indices.Length };
            var item = CompactItem.Of(
                TokenRows.Ragged(
                    TensorView.FromPointer(from, type, [rows, width]),
                    TensorView.FromPointer(to, type, [destination.Length / width, width])),
                "rows", AuxDevice.Host, segments: 1);
            Run(new([item], segments, offsets, 1, kept, indices.Length, null), AuxDevice.Host, backend);
        }
    }

    /// <summary>Spreads the gradient of compacted rows over the rows that were compacted; zero where a row was dropped.</summary>
    /// <param name="outputGradient">[K, width] or more, row-major.</param>
    /// <param name="width">Elements of a row, at least 1.</param>
    /// <param name="slots">[N]: each token's place among the kept, or −1, as <see cref="TokenSelect"/> writes them.</param>
    /// <param name="gradient">[N, width], all of it written; shares no memory with the others.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, a slot is outside the output's rows, or spans overlap. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Backward<T>(
        ReadOnlySpan<T> outputGradient, int width, ReadOnlySpan<int> slots, Span<T> gradient, AuxBackend backend = AuxBackend.Auto)
        where T : unmanaged
    {
        var kept = RowsOf(outputGradient.Length, width, nameof(outputGradient));
        if (RowsOf(gradient.Length, width, nameof(gradient)) != slots.Length)
            throw new ArgumentException($"gradient: {gradient.Length} elements are not {slots.Length} rows of {width}", nameof(gradient));
        var type = DTypes.Of<T>();
        fixed (T* from = outputGradient, to = gradient)
        fixed (int* places = slots)
        {
            int* segments = stackalloc int[] { 0, slots.Length }, offsets = stackalloc int[] { 0, kept };
            var item = CompactItem.Of(
                TokenRows.Ragged(
                    TensorView.FromPointer(from, type, [kept, width]), TensorView.FromPointer(to, type, [slots.Length, width])),
                "rows", AuxDevice.Host, segments: 1);
            RunBackward(new([item], segments, offsets, 1, null, 0, places), AuxDevice.Host, backend);
        }
    }

    /// <summary>Compacts any number of tensors by one selection.</summary>
    /// <param name="tensors">What to compact; none is allowed.</param>
    /// <param name="segments">int32 [B + 1], contiguous: the segments that the selection was made of.</param>
    /// <param name="selection">What <see cref="TokenSelect"/> wrote: indices and offsets. All on one device with the tensors.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">
    /// A tensor does not fit the selection or its destination, dtypes or devices differ, memory overlaps, or the selection is not one of
    /// these segments. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Run(
        ReadOnlySpan<TokenRows> tensors, in TensorView segments, in SelectionViews selection, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        var device = CheckSelection(segments, selection);
        TensorArguments.Require(
            selection.Indices, "selection.Indices", [DType.Int32], [selection.Indices.ElementCount], device, nameof(selection));
        Run(
            new(
                ItemsOf(tensors, device, segments.ElementCount - 1), (int*)segments.Address, (int*)selection.Offsets.Address,
                (int)segments.ElementCount - 1, (int*)selection.Indices.Address, selection.Indices.ElementCount, null),
            device, backend, CudaStream.HandleOn(stream, device, nameof(stream)));
        KeepAlive(tensors, segments, selection, stream);
    }

    /// <summary>
    /// Spreads gradients of compacted tensors: in each, the source is the output's gradient, and the destination becomes the input's, all
    /// of it written, with zeros where a token was dropped and behind a segment's tokens.
    /// </summary>
    /// <param name="gradients">Sources with the kept tokens, destinations with all of them.</param>
    /// <param name="segments">int32 [B + 1], contiguous: the segments that the selection was made of.</param>
    /// <param name="selection">What <see cref="TokenSelect"/> wrote: slots and offsets.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">As for compaction; a destination may not be its own source. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Backward(
        ReadOnlySpan<TokenRows> gradients, in TensorView segments, in SelectionViews selection, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        var device = CheckSelection(segments, selection);
        TensorArguments.Require(
            selection.Slots, "selection.Slots", [DType.Int32], [selection.Slots.ElementCount], device, nameof(selection));
        RunBackward(
            new(
                ItemsOf(gradients, device, segments.ElementCount - 1), (int*)segments.Address, (int*)selection.Offsets.Address,
                (int)segments.ElementCount - 1, null, selection.Slots.ElementCount, (int*)selection.Slots.Address),
            device, backend, CudaStream.HandleOn(stream, device, nameof(stream)));
        KeepAlive(gradients, segments, selection, stream);
    }

    private static AuxDevice CheckSelection(in TensorView segments, in SelectionViews selection)
    {
        if (segments.Shape.Length != 1 || segments.ElementCount == 0)
            throw new ArgumentException($"segments: {segments}, but int32 of one dimension, not empty, is needed", nameof(segments));
        TensorArguments.Require(segments, "segments", [DType.Int32], segments.Shape, segments.Device, nameof(segments));
        TensorArguments.Require(
            selection.Offsets, "selection.Offsets", [DType.Int32], segments.Shape, segments.Device, nameof(selection));
        return segments.Device;
    }

    private static CompactItem[] ItemsOf(ReadOnlySpan<TokenRows> tensors, AuxDevice device, long segments)
    {
        var items = new CompactItem[tensors.Length];
        for (var i = 0; i < items.Length; i++)
            items[i] = CompactItem.Of(tensors[i], $"tensors[{i}]", device, segments);
        return items;
    }

    // Everything is checked before the first write.
    private static void Run(in TokenCompactWork work, AuxDevice device, AuxBackend backend, nint stream = 0)
    {
        backend = Support.Resolve(backend, device);
        if (device.Kind == AuxDeviceKind.Host)
            work.Check();
        if (backend == AuxBackend.Cuda)
            RunCuda(work, device, stream);
        else if (backend == AuxBackend.Ilgpu && IlgpuShim.IsSupported)
            RunIlgpu(work, forward: true, device, stream);
        else if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
        Support.Count(backend);
    }

    private static void RunBackward(in TokenCompactWork work, AuxDevice device, AuxBackend backend, nint stream = 0)
    {
        backend = Support.Resolve(backend, device);
        if (device.Kind == AuxDeviceKind.Host)
            work.CheckBackward();
        if (backend == AuxBackend.Cuda)
            RunBackwardCuda(work, device, stream);
        else if (backend == AuxBackend.Ilgpu && IlgpuShim.IsSupported)
            RunIlgpu(work, forward: false, device, stream);
        else if (backend == AuxBackend.Cpu)
            RunBackwardCpu(work);
        else
            RunBackwardReference(work);
        Support.Count(backend);
    }

    private static int RowsOf(int elements, int width, string name)
    {
        TensorArguments.RequireAtLeastOne(nameof(width), width);
        if (elements % width != 0)
            throw new ArgumentException($"{name}: {elements} elements are not rows of {width}", name);
        return elements / width;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void KeepAlive(
        ReadOnlySpan<TokenRows> tensors, in TensorView segments, in SelectionViews selection, CudaStream? stream)
    {
        foreach (ref readonly var rows in tensors)
            rows.KeepAlive();
        TensorArguments.KeepAlive(segments.Owner, stream);
        selection.KeepAlive();
    }
}
