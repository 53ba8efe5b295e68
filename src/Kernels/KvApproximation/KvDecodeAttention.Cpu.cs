namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    // Positions whose scores and weights lie in the first-level cache at a time. Part of the result's definition: sums depend on it.
    private const int ChunkPositions = 512;

    // Query heads that share each key and value that is loaded; scores lie position by position, these heads side by side.
    private const int Block = 4;

    // A thread gets at least this many elements of the cache: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 128 * 1024;

    private static unsafe void RunCpu(in KvAttentionWork work)
    {
        var width = WidthFor(work.Shape.HeadDim);
        var loops = new BothLoops(
            KvAttentionLoops.For(width, work.KeyFormat, work.ValueFormat), KvAttentionLoops.For(width, KvFormat.F32, KvFormat.F32));
        using var scratch = new Scratch();
        var parts = new KvAttentionParts(work, scratch);
        var threads = (int)Math.Min(ThreadTeam.Count(parts.Elements, MinimumElementsPerThread), parts.Count);
        if (threads <= 1)
            Chunks(work, loops, parts, 0, parts.Count);
        else
            RunThreads(work, loops, parts, threads);
        for (var b = 0; b < work.Shape.Batch; b++)
        {
            for (var head = 0; head < work.Shape.QueryHeads; head++)
                Merge(work, parts, b, head);
            for (var kvHead = 0; kvHead < work.Shape.KvHeads && work.PositionSums != null; kvHead++)
                AddPositionSums(work, parts, b, kvHead);
        }
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvAttentionWork work, BothLoops loops, KvAttentionParts parts, int threads) =>
        ThreadTeam.Run(
            threads, part => Chunks(work, loops, parts, parts.Count * part / threads, parts.Count * (part + 1) / threads));

    /// <summary>The loops of the cache's formats, and those of what a cache keeps in float32 for a while.</summary>
    private readonly record struct BothLoops(KvAttentionLoops Stored, KvAttentionLoops Exact);

    /// <summary>The greatest width whose vectors fill a head.</summary>
    private static SimdWidth WidthFor(int headDim)
    {
        var width = (int)CpuSimd.ProductWidth;
        while (headDim % width != 0)
            width /= 2;
        return width == 2 ? SimdWidth.Scalar : (SimdWidth)width;
    }

    private static unsafe void Chunks(KvAttentionWork work, BothLoops both, KvAttentionParts parts, long from, long to)
    {
        var (loops, exact) = both;
        var (d, keys, values) = (work.Shape.HeadDim, work.Cache.Keys, work.Cache.Values);
        using var scratch = new Scratch();
        var query = scratch.Take<float>(Block * (long)d);
        var ownScores = scratch.Take<float>(KvAttentionParts.Weights);
        var scales = scratch.Take<float>(ScaleFloats(d));
        for (var unit = from; unit < to; unit++)
        {
            var (b, kvHead, block, chunk) = parts.Unit(unit);
            var heads = Math.Min(Block, work.Shape.HeadsPerGroup - block * Block);
            var first = chunk * ChunkPositions;
            var length = work.Length(b, kvHead);
            var count = Math.Min(ChunkPositions, length - first);
            var scores = work.PositionSums == null ? ownScores : parts.WeightsOf(unit);
            LoadQuery(work, b, kvHead * work.Shape.HeadsPerGroup + block * Block, heads, query);

            // The rows of a page, or all. Scores and sums of positions do not depend on how they are parted.
            var stored = Math.Clamp(keys.Quantised(length) - first, 0, count);
            for (int t = 0, run; t < stored; t += run)
            {
                var rows = keys.Rows(b, kvHead, first + t, out run);
                run = Math.Min(run, stored - t);
                loops.Score(query, rows, run, d, heads, scores + t * Block, keys.Scale(kvHead), scales);
            }

            for (int t = stored, run; t < count; t += run)
            {
                var rows = keys.RingRows(b, kvHead, first + t, out run);
                run = Math.Min(run, count - t);
                exact.Score(query, (byte*)rows, run, d, heads, scores + t * Block, 1, scales);
            }

            var result = parts.Result(unit);
            loops.Weigh(scores, count, result);
            new Span<float>(result + KvAttentionParts.Head, Block * d).Clear();
            stored = Math.Clamp(values.Quantised(length) - first, 0, count);
            for (int t = 0, run; t < stored; t += run)
            {
                var rows = values.Rows(b, kvHead, first + t, out run);
                run = Math.Min(run, stored - t);
                loops.Mix(
                    scores + t * Block, rows, run, d, heads, result + KvAttentionParts.Head, values.Scale(kvHead), scales);
            }

            for (int t = stored, run; t < count; t += run)
            {
                var rows = values.RingRows(b, kvHead, first + t, out run);
                run = Math.Min(run, count - t);
                exact.Mix(scores + t * Block, (byte*)rows, run, d, heads, result + KvAttentionParts.Head, 1, scales);
            }
        }
    }

    /// <summary>
    /// The queries of a block, times the scale and log₂ e, so that weights are powers of 2; zeros for heads that it lacks.
    /// </summary>
    private static unsafe void LoadQuery(in KvAttentionWork work, int b, int firstHead, int heads, float* query)
    {
        var (d, factor) = (work.Shape.HeadDim, work.Scale * double.Log2(Math.E));
        new Span<float>(query, Block * d).Clear();
        for (var h = 0; h < heads; h++)
        {
            var source = work.Query(b, firstHead + h);
            for (var i = 0; i < d; i++)
                query[h * d + i] = (float)(source[i] * factor);
        }
    }

    /// <summary>Chunks in their order: each counts 2 to the power of its maximum less the greatest.</summary>
    private static unsafe void Merge(in KvAttentionWork work, KvAttentionParts parts, int b, int head)
    {
        var (d, inBlock) = (work.Shape.HeadDim, head % work.Shape.HeadsPerGroup % Block);
        var output = new Span<float>(work.Output(b, head), d);
        output.Clear();
        var (first, chunks) = parts.UnitsOf(b, head);
        if (chunks == 0)
            return;
        var (greatest, total) = (Greatest(parts, first, chunks, inBlock), 0f);
        for (var chunk = 0; chunk < chunks; chunk++)
        {
            var result = parts.Result(first + chunk);
            var weight = Weight(result[inBlock], greatest);
            total = MathF.FusedMultiplyAdd(weight, result[Block + inBlock], total);
            var values = result + KvAttentionParts.Head + inBlock * (long)d;
            for (var i = 0; i < d; i++)
                output[i] = MathF.FusedMultiplyAdd(weight, values[i], output[i]);
        }

        for (var i = 0; i < d; i++)
            output[i] /= total;
    }

    /// <summary>Adds each position's share of the attention of a group's heads, in the heads' order.</summary>
    private static unsafe void AddPositionSums(in KvAttentionWork work, KvAttentionParts parts, int b, int kvHead)
    {
        var sums = work.Sums(b, kvHead);
        for (var inGroup = 0; inGroup < work.Shape.HeadsPerGroup; inGroup++)
        {
            var (first, chunks) = parts.UnitsOf(b, kvHead * work.Shape.HeadsPerGroup + inGroup);
            var inBlock = inGroup % Block;
            var (greatest, total) = (Greatest(parts, first, chunks, inBlock), 0f);
            for (var chunk = 0; chunk < chunks; chunk++)
            {
                var result = parts.Result(first + chunk);
                total = MathF.FusedMultiplyAdd(Weight(result[inBlock], greatest), result[Block + inBlock], total);
            }

            for (var chunk = 0; chunk < chunks; chunk++)
            {
                var weights = parts.WeightsOf(first + chunk);
                var share = Weight(parts.Result(first + chunk)[inBlock], greatest) / total;
                var from = chunk * ChunkPositions;
                var count = Math.Min(ChunkPositions, work.Length(b, kvHead) - from);
                for (var t = 0; t < count; t++)
                    sums[from + t] = MathF.FusedMultiplyAdd(weights[t * Block + inBlock], share, sums[from + t]);
            }
        }
    }

    private static unsafe float Greatest(KvAttentionParts parts, long first, int chunks, int inBlock)
    {
        var greatest = float.NegativeInfinity;
        for (var chunk = 0; chunk < chunks; chunk++)
            greatest = MathF.Max(greatest, parts.Result(first + chunk)[inBlock]);
        return greatest;
    }

    // Where all scores of a chunk are −∞, so is its maximum, perhaps of all chunks; −∞ less −∞ would be NaN.
    private static float Weight(float maximum, float greatest) =>
        float.IsNegativeInfinity(maximum) ? 0 : float.Exp2(maximum - greatest);
}
