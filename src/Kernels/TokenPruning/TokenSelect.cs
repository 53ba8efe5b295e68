using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Keeps the tokens of highest score of each segment, in their order: the step between scores and compaction in visual-token pruning
/// (FastV, Chen et al. 2024, arXiv 2403.06764; PyramidDrop, VisionZip, PruMerge and others differ in scores and budget).
/// </summary>
/// <remarks>
/// <para>Tokens rank by score, the greater first; −0 equals +0; of equal scores the lower index is first; NaN is below −∞. Tokens that are
/// always kept rank above all others. That is a total order, and a <see cref="Budget"/> keeps a beginning of it, so the result is one and
/// the same on every backend, vector width and number of threads. <c>torch.topk</c> promises neither order nor ties, and takes NaN for the
/// greatest.</para>
/// <para>Threads share segments; one segment is one thread's. The methods are thread-safe, as far as no two write one output.</para>
/// </remarks>
public static partial class TokenSelect
{
    internal static readonly OpSupport Support = new(
        nameof(TokenSelect),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>
    /// How many indices a selection may have: exact for <see cref="Budget.Count"/> and <see cref="Budget.Ratio"/>, the most there can be
    /// for the others.
    /// </summary>
    /// <param name="segments">[B + 1]: where each segment begins, and the end; ascending from 0.</param>
    /// <param name="budget">How many are kept.</param>
    /// <param name="always">[N], or empty: tokens that are kept whatever their score.</param>
    /// <exception cref="ArgumentException">The arguments are what <c>Run</c> refuses.</exception>
    public static unsafe int Capacity(ReadOnlySpan<int> segments, Budget budget, ReadOnlySpan<bool> always = default)
    {
        var tokens = segments.IsEmpty ? 0 : segments[^1];
        fixed (int* bounds = segments)
        fixed (bool* kept = always)
        {
            TokenSegments.Check(bounds, segments.Length, tokens, nameof(segments));
            if (!always.IsEmpty)
                TensorArguments.RequireLength("always", always.Length, tokens, nameof(always));
            return TokenSelectWork.Capacity(bounds, segments.Length - 1, budget, (byte*)kept);
        }
    }

    /// <summary>The bytes of <see cref="SelectionViews.Workspace"/> that a selection on a device may need.</summary>
    /// <param name="segments">B, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">The number is negative.</exception>
    public static long WorkspaceBytes(int segments)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(segments);
        const int CutBytes = 16;
        return segments > 1 ? (long)segments * CutBytes : 0;
    }

    /// <summary>Selects tokens.</summary>
    /// <param name="scores">[N], the segments one after the other.</param>
    /// <param name="segments">[B + 1]: where each segment begins, and the end: ascending from 0 to N. Segments may be empty.</param>
    /// <param name="budget">How many are kept of each segment.</param>
    /// <param name="selection">What is written; shares memory with nothing.</param>
    /// <param name="always">[N], or empty: tokens that are kept whatever their score. They count towards the budget.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <returns>The number of tokens kept, the last of the offsets.</returns>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, segments do not ascend from 0 to N, a segment has fewer tokens than <see cref="Budget.Count"/> asks for, the
    /// budget is a default value, or spans overlap. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe int Run(
        ReadOnlySpan<float> scores, ReadOnlySpan<int> segments, Budget budget, Selection selection, ReadOnlySpan<bool> always = default,
        AuxBackend backend = AuxBackend.Auto)
    {
        fixed (float* s = scores)
            return Run(s, DType.Float32, scores.Length, segments, budget, selection, always, backend);
    }

    /// <inheritdoc cref="Run(ReadOnlySpan{float}, ReadOnlySpan{int}, Budget, Selection, ReadOnlySpan{bool}, AuxBackend)"/>
    public static unsafe int Run(
        ReadOnlySpan<BFloat16> scores, ReadOnlySpan<int> segments, Budget budget, Selection selection, ReadOnlySpan<bool> always = default,
        AuxBackend backend = AuxBackend.Auto)
    {
        fixed (BFloat16* s = scores)
            return Run(s, DType.BFloat16, scores.Length, segments, budget, selection, always, backend);
    }

    /// <inheritdoc cref="Run(ReadOnlySpan{float}, ReadOnlySpan{int}, Budget, Selection, ReadOnlySpan{bool}, AuxBackend)"/>
    public static unsafe int Run(
        ReadOnlySpan<Half> scores, ReadOnlySpan<int> segments, Budget budget, Selection selection, ReadOnlySpan<bool> always = default,
        AuxBackend backend = AuxBackend.Auto)
    {
        fixed (Half* s = scores)
            return Run(s, DType.Float16, scores.Length, segments, budget, selection, always, backend);
    }

    /// <summary>Selects tokens by scores in memory of any framework. The offsets then say how many were kept.</summary>
    /// <remarks>
    /// Device memory is not waited for, so what segments say is not checked there: they are held within the tokens, a segment with fewer
    /// tokens than <see cref="Budget.Count"/> asks for keeps all, and indices beyond the capacity are not written.
    /// </remarks>
    /// <param name="scores">float32, bfloat16 or float16 [N], contiguous.</param>
    /// <param name="segments">int32 [B + 1], contiguous: ascending from 0 to N.</param>
    /// <param name="budget">How many are kept of each segment.</param>
    /// <param name="selection">What is written; shares memory with nothing.</param>
    /// <param name="always">bool [N], contiguous, or left out: tokens that are kept whatever their score.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes or devices do not fit, a tensor is not contiguous, or as for spans. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Run(
        in TensorView scores, in TensorView segments, Budget budget, in SelectionViews selection, TensorView always = default,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        var device = scores.Device;
        if (scores.Shape.Length != 1 || segments.Shape.Length != 1)
            throw new ArgumentException($"scores: {scores}, segments: {segments}; both are of one dimension", nameof(scores));
        TensorArguments.Require(
            scores, "scores", [DType.Float32, DType.BFloat16, DType.Float16], scores.Shape, device, nameof(scores));
        TensorArguments.Require(segments, "segments", [DType.Int32], segments.Shape, device, nameof(segments));
        TensorArguments.RequireIfWanted(always, "always", DType.Bool, scores.Shape, device, nameof(always));
        TensorArguments.Require(
            selection.Indices, "selection.Indices", [DType.Int32], [selection.Indices.ElementCount], device, nameof(selection));
        TensorArguments.Require(selection.Offsets, "selection.Offsets", [DType.Int32], segments.Shape, device, nameof(selection));
        TensorArguments.RequireIfWanted(
            selection.Slots, "selection.Slots", DType.Int32, scores.Shape, device, nameof(selection));
        TensorArguments.RequireIfWanted(
            selection.NaNCounts, "selection.NaNCounts", DType.Int32, [Math.Max(0, segments.ElementCount - 1)], device, nameof(selection));
        backend = Support.Resolve(backend, device);
        var work = new TokenSelectWork
        {
            ScoreType = scores.DType,
            Scores = (void*)scores.Address,
            Tokens = scores.ElementCount,
            Bounds = (int*)segments.Address,
            BoundCount = segments.ElementCount,
            Always = (byte*)always.Address,
            Budget = budget,
            Indices = (int*)selection.Indices.Address,
            IndexCapacity = selection.Indices.ElementCount,
            Offsets = (int*)selection.Offsets.Address,
            Slots = (int*)selection.Slots.Address,
            NaNCounts = (int*)selection.NaNCounts.Address,
        };
        var on = CudaStream.HandleOn(stream, device, nameof(stream));
        if (backend == AuxBackend.Cuda)
            RunCuda(work, selection.Workspace, device, on);
        else if (device.Kind != AuxDeviceKind.Host && IlgpuShim.IsSupported)
            RunIlgpuOnDevice(work, selection.Workspace, device, on);
        else
            _ = Run(work, backend);
        TensorArguments.KeepAlive(scores.Owner, segments.Owner, always.Owner, stream);
        selection.KeepAlive();
    }

    private static unsafe int Run(
        void* scores, DType type, int tokens, ReadOnlySpan<int> segments, Budget budget, Selection selection, ReadOnlySpan<bool> always,
        AuxBackend backend)
    {
        TensorArguments.RequireLength("selection.Offsets", selection.Offsets.Length, segments.Length, nameof(selection));
        TensorArguments.RequireEmptyOrLength("selection.Slots", selection.Slots.Length, tokens, nameof(selection));
        TensorArguments.RequireEmptyOrLength(
            "selection.NaNCounts", selection.NaNCounts.Length, Math.Max(0, segments.Length - 1), nameof(selection));
        TensorArguments.RequireEmptyOrLength("always", always.Length, tokens, nameof(always));
        fixed (int* bounds = segments, indices = selection.Indices, offsets = selection.Offsets)
        fixed (int* slots = selection.Slots, counts = selection.NaNCounts)
        fixed (bool* kept = always)
        {
            return Run(
                new TokenSelectWork
                {
                    ScoreType = type,
                    Scores = scores,
                    Tokens = tokens,
                    Bounds = bounds,
                    BoundCount = segments.Length,
                    Always = (byte*)kept,
                    Budget = budget,
                    Indices = indices,
                    IndexCapacity = selection.Indices.Length,
                    Offsets = offsets,
                    Slots = slots,
                    NaNCounts = counts,
                },
                Support.Resolve(backend, AuxDevice.Host));
        }
    }

    // Everything is checked before the first write.
    private static unsafe int Run(in TokenSelectWork work, AuxBackend backend)
    {
        work.Check();
        if (backend == AuxBackend.Ilgpu && IlgpuShim.IsSupported)
            RunIlgpu(work, default, AuxDevice.Host, 0);
        else if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
        Support.Count(backend);
        return work.Offsets[work.Segments];
    }
}
