using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Merges tokens: which ones belong together, by cosine similarity, and the mean of each group, weighted by how many tokens each stands
/// for. Bipartite soft matching is that of ToMe (Bolya et al. 2023, arXiv 2210.09461); assigning what a selection dropped to the most
/// similar kept token serves contextual merging (VisionZip, Yang et al. 2024, arXiv 2412.04467; PruMerge, Shang et al. 2024,
/// arXiv 2403.15388).
/// </summary>
/// <remarks>
/// <para>Groups are slots, one number a token, as <see cref="TokenSelect"/> writes them: the place of the output row that a token goes
/// into, or −1. Of candidates that are equally similar the lower index wins. A token of norm 0 has similarity 0 to all; a similarity that
/// is NaN is below all others, and what has no other goes to the lowest candidate.</para>
/// <para>Merging: x′ = Σ s_i x_i / Σ s_i and s′ = Σ s_i over the members of a slot in index order, in float32; one member alone is copied
/// bit for bit, and a slot without members becomes 0. Similarities are float32 dot products of float32-rounded unit vectors. Results do
/// not depend on threads or vector width. Thread-safe, as far as no two calls write one output.</para>
/// <para>On a device nothing is waited for: what segments, slots and sizes say there is not checked but held within the tensors, and a
/// token whose slot is outside the output goes nowhere. Means and shares are the CPU's bits; similarities may differ by a rounding.</para>
/// </remarks>
public static partial class TokenMerge
{
    internal static readonly OpSupport Support = new(
        nameof(TokenMerge),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "products of matrices are not for ILGPU; use the CPU"));

    private static readonly DType[] Types = [DType.Float32, DType.BFloat16, DType.Float16];

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of workspace that matching on a device needs, bipartite or assigning.</summary>
    /// <param name="tokens">N, at least 0.</param>
    /// <param name="segments">B, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative.</exception>
    public static long MatchWorkspaceBytes(int tokens, int segments)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        ArgumentOutOfRangeException.ThrowIfNegative(segments);
        return MergeWorkspace.OfMatching(tokens, segments);
    }

    /// <summary>The bytes of workspace that merging on a device needs, and its backward.</summary>
    /// <param name="tokens">N, at least 0.</param>
    /// <param name="kept">K, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative.</exception>
    public static long WorkspaceBytes(int tokens, int kept)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        ArgumentOutOfRangeException.ThrowIfNegative(kept);
        return MergeWorkspace.OfMerging(tokens, kept);
    }

    /// <summary>
    /// ToMe's bipartite soft matching: in each segment the tokens at even places look for the most similar one at an odd place, and the
    /// <paramref name="merged"/> of them that are most similar go into its group; among equals the lower index goes first. All other tokens
    /// keep a slot of their own, in their order.
    /// </summary>
    /// <param name="metric">[N, depth], row-major: what similarity is measured on, in ToMe the keys' mean over heads.</param>
    /// <param name="depth">At least 1.</param>
    /// <param name="segments">[B + 1]: where each segment begins, and the end: ascending from 0 to N.</param>
    /// <param name="merged">How many tokens of each segment are merged away; all that can be where there are fewer.</param>
    /// <param name="slots">[N], written: the place of each token's group, over all segments.</param>
    /// <param name="offsets">[B + 1], written: where the groups of each segment begin, and the end.</param>
    /// <param name="protect">So many tokens at the beginning of each segment, such as the class token, are not merged away.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, segments do not ascend, or spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative, or the depth below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Bipartite(
        ReadOnlySpan<float> metric, int depth, ReadOnlySpan<int> segments, int merged, Span<int> slots, Span<int> offsets, int protect = 0,
        AuxBackend backend = AuxBackend.Auto)
    {
        TensorArguments.RequireAtLeastOne(nameof(depth), depth);
        TensorArguments.RequireLength("metric", metric.Length, slots.Length, depth, nameof(metric));
        fixed (float* m = metric)
        fixed (int* bounds = segments, places = slots, begins = offsets)
        {
            Bipartite(
                TensorView.FromPointer(m, DType.Float32, [slots.Length, depth]),
                TensorView.FromPointer(bounds, DType.Int32, [segments.Length]), merged,
                TensorView.FromPointer(places, DType.Int32, [slots.Length]),
                TensorView.FromPointer(begins, DType.Int32, [offsets.Length]), protect, backend);
        }
    }

    /// <summary>The same in memory of any framework.</summary>
    /// <param name="metric">float32, bfloat16 or float16 [N, depth], contiguous.</param>
    /// <param name="segments">int32 [B + 1], contiguous.</param>
    /// <param name="merged">How many tokens of each segment are merged away; all that can be where there are fewer.</param>
    /// <param name="slots">int32 [N], contiguous, written.</param>
    /// <param name="offsets">int32 [B + 1], contiguous, written.</param>
    /// <param name="protect">So many tokens at the beginning of each segment are not merged away.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// On a device: uint8, one dimension of at least <see cref="MatchWorkspaceBytes"/>, on an address divisible by 256, whose contents
    /// become undefined.
    /// </param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes, devices or segments do not fit, or memory overlaps. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative, or the depth below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Bipartite(
        in TensorView metric, in TensorView segments, int merged, in TensorView slots, in TensorView offsets, int protect = 0,
        AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        var work = Work(metric, segments, slots);
        TensorArguments.Require(offsets, nameof(offsets), [DType.Int32], segments.Shape, metric.Device, nameof(offsets));
        ArgumentOutOfRangeException.ThrowIfNegative(merged);
        ArgumentOutOfRangeException.ThrowIfNegative(protect);
        backend = Support.Resolve(backend, metric.Device);
        var on = CudaStream.HandleOn(stream, metric.Device, nameof(stream));
        work.CheckSegments(metric.Device);
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(metric), (void*)metric.Address, metric.ByteCount),
            NamedMemory.Read(nameof(segments), (void*)segments.Address, segments.ByteCount),
            NamedMemory.Written(nameof(slots), (void*)slots.Address, slots.ByteCount),
            NamedMemory.Written(nameof(offsets), (void*)offsets.Address, offsets.ByteCount),
            NamedMemory.Written(nameof(workspace), (void*)workspace.Address, workspace.ByteCount));
        if (backend == AuxBackend.Cuda)
            BipartiteOnCuda(work, merged, protect, (int*)offsets.Address, workspace, metric.Device, on);
        else
            BipartiteSlots(work, merged, protect, (int*)offsets.Address, backend == AuxBackend.Reference);
        Support.Count(backend);
        TensorArguments.KeepAlive(metric.Owner, segments.Owner, slots.Owner, offsets.Owner, workspace.Owner, stream);
    }

    /// <summary>
    /// Gives each token without a slot that of the most similar token of its segment that has one. Where no token of the segment has, it
    /// stays without.
    /// </summary>
    /// <param name="metric">[N, depth], row-major: what similarity is measured on.</param>
    /// <param name="depth">At least 1.</param>
    /// <param name="segments">[B + 1]: where each segment begins, and the end: ascending from 0 to N.</param>
    /// <param name="slots">[N], as <see cref="TokenSelect"/> writes them: −1 is replaced.</param>
    /// <param name="targets">
    /// [N], or empty for all: which of the tokens with a slot may be assigned to, such as VisionZip's contextual ones.
    /// </param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, segments do not ascend, a slot is below −1, or spans overlap. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The depth is below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Assign(
        ReadOnlySpan<float> metric, int depth, ReadOnlySpan<int> segments, Span<int> slots, ReadOnlySpan<bool> targets = default,
        AuxBackend backend = AuxBackend.Auto)
    {
        TensorArguments.RequireAtLeastOne(nameof(depth), depth);
        TensorArguments.RequireLength("metric", metric.Length, slots.Length, depth, nameof(metric));
        TensorArguments.RequireEmptyOrLength(nameof(targets), targets.Length, slots.Length, nameof(targets));
        fixed (float* m = metric)
        fixed (int* bounds = segments, places = slots)
        fixed (bool* chosen = targets)
        {
            Assign(
                TensorView.FromPointer(m, DType.Float32, [slots.Length, depth]),
                TensorView.FromPointer(bounds, DType.Int32, [segments.Length]),
                TensorView.FromPointer(places, DType.Int32, [slots.Length]),
                targets.IsEmpty ? default : TensorView.FromPointer(chosen, DType.Bool, [slots.Length]), backend);
        }
    }

    /// <summary>The same in memory of any framework.</summary>
    /// <param name="metric">float32, bfloat16 or float16 [N, depth], contiguous.</param>
    /// <param name="segments">int32 [B + 1], contiguous.</param>
    /// <param name="slots">int32 [N], contiguous: −1 is replaced.</param>
    /// <param name="targets">bool [N], contiguous, or left out.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// On a device: uint8, one dimension of at least <see cref="MatchWorkspaceBytes"/>, on an address divisible by 256, whose contents
    /// become undefined.
    /// </param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes, devices, segments or slots do not fit, or memory overlaps. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The depth is below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Assign(
        in TensorView metric, in TensorView segments, in TensorView slots, TensorView targets = default,
        AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        var work = Work(metric, segments, slots);
        TensorArguments.RequireIfWanted(targets, nameof(targets), DType.Bool, slots.Shape, metric.Device, nameof(targets));
        backend = Support.Resolve(backend, metric.Device);
        var on = CudaStream.HandleOn(stream, metric.Device, nameof(stream));
        work.CheckSegments(metric.Device);
        if (backend != AuxBackend.Cuda)
            MergeGroups.CheckSlots(work.Slots, work.Tokens, int.MaxValue);
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(metric), (void*)metric.Address, metric.ByteCount),
            NamedMemory.Read(nameof(segments), (void*)segments.Address, segments.ByteCount),
            NamedMemory.Read(nameof(targets), (void*)targets.Address, targets.ByteCount),
            NamedMemory.Written(nameof(slots), (void*)slots.Address, slots.ByteCount),
            NamedMemory.Written(nameof(workspace), (void*)workspace.Address, workspace.ByteCount));
        if (backend == AuxBackend.Cuda)
            AssignOnCuda(work, (byte*)targets.Address, workspace, metric.Device, on);
        else
            AssignSlots(work, (byte*)targets.Address, backend == AuxBackend.Reference);
        Support.Count(backend);
        TensorArguments.KeepAlive(metric.Owner, segments.Owner, slots.Owner, targets.Owner, workspace.Owner, stream);
    }

    private static unsafe SimilarityWork Work(in TensorView metric, in TensorView segments, in TensorView slots)
    {
        if (metric.Shape.Length != 2 || segments.Shape.Length != 1)
            throw new ArgumentException($"metric: {metric}, segments: {segments}; they are of two and one dimensions", nameof(metric));
        TensorArguments.Require(metric, nameof(metric), Types, metric.Shape, metric.Device, nameof(metric));
        TensorArguments.RequireAtLeastOne("depth", metric.Shape[1]);
        TensorArguments.Require(segments, nameof(segments), [DType.Int32], segments.Shape, metric.Device, nameof(segments));
        TensorArguments.Require(slots, nameof(slots), [DType.Int32], [metric.Shape[0]], metric.Device, nameof(slots));
        return new()
        {
            DType = metric.DType,
            Metric = (void*)metric.Address,
            Tokens = metric.Shape[0],
            Depth = checked((int)metric.Shape[1]),
            Bounds = (int*)segments.Address,
            BoundCount = segments.ElementCount,
            Slots = (int*)slots.Address,
        };
    }

    // Each even place's best partner, then the most similar pairs, then slots in order.
    private static unsafe void BipartiteSlots(SimilarityWork work, int merged, int protect, int* offsets, bool reference)
    {
        var longest = 0;
        for (var b = 0; b < work.Segments; b++)
            longest = Math.Max(longest, work.Bounds[b + 1] - work.Bounds[b]);
        using var similarity = new Similarity(work, longest, reference);
        int[] sources = new int[(longest + 1) / 2], candidates = new int[longest / 2], partners = new int[sources.Length];
        float[] values = new float[sources.Length];
        int[] chosen = new int[sources.Length];
        offsets[0] = 0;
        for (var b = 0; b < work.Segments; b++)
        {
            var (first, length) = (work.Bounds[b], work.Bounds[b + 1] - work.Bounds[b]);
            var (count, odd) = (0, length / 2);
            for (var place = 0; place < length; place += 2)
            {
                if (place >= protect && odd > 0)
                    sources[count++] = first + place;
            }

            for (var i = 0; i < odd; i++)
                candidates[i] = first + 2 * i + 1;
            similarity.Nearest(sources.AsSpan(0, count), candidates.AsSpan(0, odd), partners, values);
            var gone = Math.Min(merged, count);
            TokenSelect.Run(
                values.AsSpan(0, count), [0, count], Budget.Count(gone), new() { Indices = chosen, Offsets = new int[2] },
                backend: reference ? AuxBackend.Reference : AuxBackend.Cpu);
            offsets[b + 1] = NumberSlots(
                work.Slots, first, length, offsets[b], sources, chosen.AsSpan(0, gone), candidates, partners);
        }
    }

    private static unsafe int NumberSlots(
        int* slots, int first, int length, int slot, int[] sources, ReadOnlySpan<int> chosen, int[] candidates, int[] partners)
    {
        new Span<int>(slots + first, length).Clear();
        foreach (var source in chosen)
            slots[sources[source]] = -1;
        for (var token = first; token < first + length; token++)
        {
            if (slots[token] == 0)
                slots[token] = slot++;
        }

        foreach (var source in chosen)
            slots[sources[source]] = slots[candidates[partners[source]]];
        return slot;
    }

    private static unsafe void AssignSlots(SimilarityWork work, byte* targets, bool reference)
    {
        var longest = 0;
        for (var b = 0; b < work.Segments; b++)
            longest = Math.Max(longest, work.Bounds[b + 1] - work.Bounds[b]);
        using var similarity = new Similarity(work, longest, reference);
        int[] sources = new int[longest], candidates = new int[longest], partners = new int[longest];
        var values = new float[longest];
        for (var b = 0; b < work.Segments; b++)
        {
            var (count, kept) = (0, 0);
            for (var token = work.Bounds[b]; token < work.Bounds[b + 1]; token++)
            {
                if (work.Slots[token] < 0)
                    sources[count++] = token;
                else if (targets == null || targets[token] != 0)
                    candidates[kept++] = token;
            }

            if (kept == 0)
                continue;
            similarity.Nearest(sources.AsSpan(0, count), candidates.AsSpan(0, kept), partners, values);
            for (var i = 0; i < count; i++)
                work.Slots[sources[i]] = work.Slots[candidates[partners[i]]];
        }
    }
}
