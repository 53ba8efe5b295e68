using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

public static partial class TokenDiversity
{
    // So many elements of each unit vector at a time lie transposed in the second-level cache.
    private const int SliceDepth = 128;

    // Below this many multiplications a thread, waking it is not worth the while.
    private const long MinimumWorkPerThread = 4 << 20;

    private static void SelectCpu(in SimilarityWork work, int first, int count, double[] norms, bool[] spoiled, bool[] chosen)
    {
        switch (CpuSimd.ProductWidth)
        {
            case SimdWidth.Bits512:
                SelectCpu<Lanes512<float>>(work, first, count, norms, spoiled, chosen);
                break;
            case SimdWidth.Bits256:
                SelectCpu<Lanes256<float>>(work, first, count, norms, spoiled, chosen);
                break;
            case SimdWidth.Bits128:
                SelectCpu<Lanes128<float>>(work, first, count, norms, spoiled, chosen);
                break;
            default:
                SelectCpu<Lanes1<float>>(work, first, count, norms, spoiled, chosen);
                break;
        }
    }

    private static unsafe void SelectCpu<TLanes>(
        in SimilarityWork work, int first, int count, double[] norms, bool[] spoiled, bool[] chosen)
        where TLanes : struct, ILanes<TLanes, float>
    {
        var n = chosen.Length;
        if (count == 0)
            return;
        using var scratch = new Scratch();
        var step = BlockedProduct<float, TLanes>.RowStep(n);
        var similarities = scratch.TakeZeroed<float>((long)n * step);
        Gram<TLanes>(work, first, norms, spoiled, scratch, similarities, step);

        // A token that is chosen or spoiled has +∞: it is never the least.
        var nearest = scratch.Take<float>(step);
        new Span<float>(nearest, step).Fill(float.PositiveInfinity);
        for (var i = 0; i < n; i++)
            nearest[i] = spoiled[i] ? float.PositiveInfinity : Nearest(similarities + (long)i * step, n, i, spoiled);
        var left = spoiled.Count(false);
        for (var kept = 0; kept < Math.Min(count, left); kept++)
        {
            var best = Least(nearest, n);
            chosen[best] = true;
            Update(nearest, similarities + (long)best * step, n, begin: kept == 0, chosen, spoiled);
            nearest[best] = float.PositiveInfinity;
        }

        for (var i = 0; i < n && left < count; i++)
        {
            if (!spoiled[i])
                continue;
            chosen[i] = true;
            left++;
        }
    }

    /// <summary>All similarities of a segment: the upper triangle by slices of the vectors, then the lower one from it.</summary>
    private static unsafe void Gram<TLanes>(
        in SimilarityWork work, int first, double[] norms, bool[] spoiled, Scratch scratch, float* similarities, int step)
        where TLanes : struct, ILanes<TLanes, float>
    {
        var n = norms.Length;
        var slice = scratch.TakeZeroed<float>((long)SliceDepth * step);
        var threads = ThreadTeam.Count((long)n * n * work.Depth / 2, MinimumWorkPerThread);
        for (var from = 0; from < work.Depth; from += SliceDepth)
        {
            var depth = Math.Min(SliceDepth, work.Depth - from);
            UnitVectors.Transpose(work, first, from, depth, norms, spoiled, slice, step);
            if (threads == 1)
                BlockedProduct<float, TLanes>.AddGram(n, depth, slice, step, similarities, step, RowShare.Whole);
            else
                GramInParallel<TLanes>(n, depth, slice, similarities, step, threads);
        }

        const int Tile = 32;
        for (var i = 0; i < n; i += Tile)
        {
            for (var j = i; j < n; j += Tile)
                Mirror(similarities, step, i, Math.Min(n, i + Tile), j, Math.Min(n, j + Tile));
        }
    }

    // Apart from Gram, so that one thread pays for no closure.
    private static unsafe void GramInParallel<TLanes>(int n, int depth, float* slice, float* similarities, int step, int threads)
        where TLanes : struct, ILanes<TLanes, float> =>
        ThreadTeam.Run(
            threads,
            part => BlockedProduct<float, TLanes>.AddGram(n, depth, slice, step, similarities, step, new RowShare(part, threads)));

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Mirror(float* matrix, int step, int top, int bottom, int left, int right)
    {
        for (var i = top; i < bottom; i++)
        {
            for (var j = Math.Max(left, i + 1); j < right; j++)
                matrix[(long)j * step + i] = matrix[(long)i * step + j];
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe float Nearest(float* row, int n, int self, bool[] spoiled)
    {
        var nearest = float.NegativeInfinity;
        for (var j = 0; j < n; j++)
        {
            if (row[j] > nearest && j != self && !spoiled[j])
                nearest = row[j];
        }

        return nearest;
    }

    /// <summary>The first of the least.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe int Least(float* values, int n)
    {
        var least = values[0];
        var (all, i) = (Vector256.Create(least), 0);
        for (; i <= n - Vector256<float>.Count; i += Vector256<float>.Count)
            all = Vector256.Min(all, Vector256.Load(values + i));
        for (var lane = 0; lane < Vector256<float>.Count; lane++)
            least = Math.Min(least, all[lane]);
        for (; i < n; i++)
            least = Math.Min(least, values[i]);
        return new Span<float>(values, n).IndexOf(least);
    }

    /// <summary>Takes a token that was chosen into the similarities to the nearest; the first one replaces what they were.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Update(float* nearest, float* row, int n, bool begin, bool[] chosen, bool[] spoiled)
    {
        if (begin)
        {
            for (var i = 0; i < n; i++)
                nearest[i] = chosen[i] || spoiled[i] ? float.PositiveInfinity : row[i];
            return;
        }

        var at = 0;
        for (; at <= n - Vector256<float>.Count; at += Vector256<float>.Count)
            Vector256.Max(Vector256.Load(nearest + at), Vector256.Load(row + at)).Store(nearest + at);
        for (; at < n; at++)
            nearest[at] = Math.Max(nearest[at], row[at]);
    }
}
