using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Keeps tokens that are as unlike each other as can be: greedy max-min over cosine distances, as DivPrune does (Alvar et al. 2025,
/// arXiv 2503.02175). No score is needed.
/// </summary>
/// <remarks>
/// <para>The first token is the one whose nearest neighbour is farthest; each further one has the largest distance to the nearest of those
/// that are kept. Of equals the lower index is taken. A token of norm 0 has similarity 0 to all. A token that is not finite is taken only
/// when nothing else is left, and counts for no other's distance. Tokens kept for fewer are kept for more.</para>
/// <para>Similarities are float32 dot products of float32-rounded unit vectors; all of a segment are formed at once, n² numbers for its n
/// tokens. Results depend on neither threads nor vector width. Thread-safe, as far as no two calls write one output.</para>
/// <para>On a device nothing is waited for: what segments say there is not checked but held within the tokens, and indices beyond those
/// that were written are left as they were. Similarities may differ from the CPU's by a rounding.</para>
/// </remarks>
public static partial class TokenDiversity
{
    /// <summary>The most tokens that a segment may have: their similarities fill two gigabytes.</summary>
    public const int MostTokens = 22_000;

    internal static readonly OpSupport Support = new(
        nameof(TokenDiversity),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "products of matrices are not for ILGPU; use the CPU"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of <see cref="SelectionViews.Workspace"/> that a selection on a device needs.</summary>
    /// <param name="tokens">N, at least 0.</param>
    /// <param name="longest">As in the call; 0 for N.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative.</exception>
    public static long WorkspaceBytes(int tokens, int longest = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        ArgumentOutOfRangeException.ThrowIfNegative(longest);
        return DiversityWorkspace.Of(tokens, longest == 0 ? tokens : longest);
    }

    /// <summary>Selects the tokens of one or more segments.</summary>
    /// <param name="tokens">[N, width], row-major.</param>
    /// <param name="width">At least 1.</param>
    /// <param name="segments">[B + 1]: where each segment begins, and the end: ascending from 0 to N.</param>
    /// <param name="count">How many are kept of each segment; all where it has fewer.</param>
    /// <param name="selection">
    /// What is written: indices [Σ min(count, n)] or more, offsets, and where wanted slots and, as NaN counts, how many tokens are not
    /// finite. Shares memory with nothing.
    /// </param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <returns>The number of tokens kept.</returns>
    /// <exception cref="ArgumentException">
    /// Lengths do not fit, segments do not ascend or one has more than <see cref="MostTokens"/>, or spans overlap. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The count is negative or the width below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe int Run(
        ReadOnlySpan<float> tokens, int width, ReadOnlySpan<int> segments, int count, Selection selection,
        AuxBackend backend = AuxBackend.Auto)
    {
        TensorArguments.RequireAtLeastOne(nameof(width), width);
        if (tokens.Length % width != 0)
            throw new ArgumentException($"tokens: {tokens.Length} elements are not rows of {width}", nameof(tokens));
        var rows = tokens.Length / width;
        TensorArguments.RequireLength("selection.Offsets", selection.Offsets.Length, segments.Length, nameof(selection));
        TensorArguments.RequireEmptyOrLength("selection.Slots", selection.Slots.Length, rows, nameof(selection));
        TensorArguments.RequireEmptyOrLength(
            "selection.NaNCounts", selection.NaNCounts.Length, Math.Max(0, segments.Length - 1), nameof(selection));
        fixed (float* from = tokens)
        fixed (int* bounds = segments, indices = selection.Indices, offsets = selection.Offsets)
        fixed (int* slots = selection.Slots, counts = selection.NaNCounts)
        {
            Run(
                TensorView.FromPointer(from, DType.Float32, [rows, width]),
                TensorView.FromPointer(bounds, DType.Int32, [segments.Length]), count,
                new()
                {
                    Indices = TensorView.FromPointer(indices, DType.Int32, [selection.Indices.Length]),
                    Offsets = TensorView.FromPointer(offsets, DType.Int32, [selection.Offsets.Length]),
                    Slots = Optional(slots, selection.Slots.Length),
                    NaNCounts = Optional(counts, selection.NaNCounts.Length),
                },
                backend);
        }

        return selection.Offsets[^1];
    }

    /// <summary>Selects tokens in memory of any framework.</summary>
    /// <param name="tokens">float32, bfloat16 or float16 [N, width], contiguous.</param>
    /// <param name="segments">int32 [B + 1], contiguous: ascending from 0 to N.</param>
    /// <param name="count">How many are kept of each segment; all where it has fewer.</param>
    /// <param name="selection">
    /// What is written, as for spans; shares memory with nothing. On a device indices are of at least min(N, B · count) elements.
    /// </param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="longest">
    /// On a device: tokens of a segment beyond so many are not looked at; 0 for N. N · longest similarities are in the workspace.
    /// </param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, or as for spans. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative or the width below 1. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Run(
        in TensorView tokens, in TensorView segments, int count, in SelectionViews selection, AuxBackend backend = AuxBackend.Auto,
        int longest = 0, CudaStream? stream = null)
    {
        if (tokens.Shape.Length != 2 || segments.Shape.Length != 1)
            throw new ArgumentException($"tokens: {tokens}, segments: {segments}; they are of two and one dimensions", nameof(tokens));
        var device = tokens.Device;
        TensorArguments.Require(
            tokens, nameof(tokens), [DType.Float32, DType.BFloat16, DType.Float16], tokens.Shape, device, nameof(tokens));
        TensorArguments.RequireAtLeastOne("width", tokens.Shape[1]);
        TensorArguments.Require(segments, nameof(segments), [DType.Int32], segments.Shape, device, nameof(segments));
        TensorArguments.Require(
            selection.Indices, "selection.Indices", [DType.Int32], [selection.Indices.ElementCount], device, nameof(selection));
        TensorArguments.Require(selection.Offsets, "selection.Offsets", [DType.Int32], segments.Shape, device, nameof(selection));
        TensorArguments.RequireIfWanted(
            selection.Slots, "selection.Slots", DType.Int32, [tokens.Shape[0]], device, nameof(selection));
        TensorArguments.RequireIfWanted(
            selection.NaNCounts, "selection.NaNCounts", DType.Int32, [Math.Max(0, segments.ElementCount - 1)], device, nameof(selection));
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        ArgumentOutOfRangeException.ThrowIfNegative(longest);
        backend = Support.Resolve(backend, device);
        var on = CudaStream.HandleOn(stream, device, nameof(stream));
        var work = new SimilarityWork
        {
            DType = tokens.DType,
            Metric = (void*)tokens.Address,
            Tokens = tokens.Shape[0],
            Depth = checked((int)tokens.Shape[1]),
            Bounds = (int*)segments.Address,
            BoundCount = segments.ElementCount,
            Slots = (int*)selection.Slots.Address,
        };
        work.CheckSegments(device);
        if (backend == AuxBackend.Cuda)
            RequireCapacity(selection, Math.Min(work.Tokens, (long)count * work.Segments));
        else
            RequireCapacity(selection, CountKept(work, count));
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(tokens), (void*)tokens.Address, tokens.ByteCount),
            NamedMemory.Read(nameof(segments), (void*)segments.Address, segments.ByteCount),
            NamedMemory.Written("selection.Indices", (void*)selection.Indices.Address, selection.Indices.ByteCount),
            NamedMemory.Written("selection.Offsets", (void*)selection.Offsets.Address, selection.Offsets.ByteCount),
            NamedMemory.Written("selection.Slots", (void*)selection.Slots.Address, selection.Slots.ByteCount),
            NamedMemory.Written("selection.NaNCounts", (void*)selection.NaNCounts.Address, selection.NaNCounts.ByteCount),
            NamedMemory.Written("selection.Workspace", (void*)selection.Workspace.Address, selection.Workspace.ByteCount));
        if (backend == AuxBackend.Cuda)
        {
            RunCuda(work, count, longest == 0 ? checked((int)work.Tokens) : longest, selection, device, on);
        }
        else
        {
            SelectAll(work, count, (int*)selection.Indices.Address, (int*)selection.Offsets.Address, (int*)selection.NaNCounts.Address,
                backend == AuxBackend.Reference);
        }

        Support.Count(backend);
        TensorArguments.KeepAlive(tokens.Owner, segments.Owner, stream);
        selection.KeepAlive();
    }

    private static unsafe TensorView Optional(int* address, int count) =>
        count == 0 ? default : TensorView.FromPointer(address, DType.Int32, [count]);

    private static unsafe long CountKept(in SimilarityWork work, int count)
    {
        var needed = 0L;
        for (var b = 0; b < work.Segments; b++)
        {
            var length = work.Bounds[b + 1] - work.Bounds[b];
            needed += Math.Min(count, length);
            if (length > MostTokens)
            {
                throw TensorArguments.Refused(
                    $"segments: segment {b} has {length} tokens; {MostTokens}, whose similarities fill two gigabytes, is the most",
                    "segments");
            }
        }

        return needed;
    }

    private static void RequireCapacity(in SelectionViews selection, long needed)
    {
        var capacity = selection.Indices.ElementCount;
        if (capacity < needed)
            throw TensorArguments.Refused($"selection.Indices: int32[{capacity}] is too short for {needed} tokens", "selection");
    }

    private static unsafe void SelectAll(
        in SimilarityWork work, int count, int* indices, int* offsets, int* spoiledCounts, bool reference)
    {
        using var scratch = new Scratch();
        var row = scratch.Take<float>(work.Depth + RowSums.Lanes);
        offsets[0] = 0;
        for (var b = 0; b < work.Segments; b++)
        {
            var (first, length) = (work.Bounds[b], work.Bounds[b + 1] - work.Bounds[b]);
            var (chosen, spoiled, norms) = (new bool[length], new bool[length], new double[length]);
            for (var i = 0; i < length; i++)
            {
                norms[i] = UnitVectors.Norm(work, first + i, row);
                spoiled[i] = !double.IsFinite(norms[i]);
            }

            if (spoiledCounts != null)
                spoiledCounts[b] = spoiled.Count(true);
            if (reference)
                SelectReference(work, first, Math.Min(count, length), spoiled, chosen);
            else
                SelectCpu(work, first, Math.Min(count, length), norms, spoiled, chosen);

            var place = offsets[b];
            for (var i = 0; i < length; i++)
            {
                if (work.Slots != null)
                    work.Slots[first + i] = chosen[i] ? place : -1;
                if (chosen[i])
                    indices[place++] = first + i;
            }

            offsets[b + 1] = place;
        }
    }
}
