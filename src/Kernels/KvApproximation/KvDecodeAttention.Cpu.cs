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
        var loops = KvAttentionLoops.For(WidthFor(work.Shape.HeadDim), work.KeyFormat, work.ValueFormat);
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
        }
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvAttentionWork work, KvAttentionLoops loops, KvAttentionParts parts, int threads) =>
        ThreadTeam.Run(
            threads, part => Chunks(work, loops, parts, parts.Count * part / threads, parts.Count * (part + 1) / threads));

    /// <summary>The greatest width whose vectors fill a head.</summary>
    private static SimdWidth WidthFor(int headDim)
    {
        var width = (int)CpuSimd.ProductWidth;
        while (headDim % width != 0)
            width /= 2;
        return width == 2 ? SimdWidth.Scalar : (SimdWidth)width;
    }

    private static unsafe void Chunks(KvAttentionWork work, KvAttentionLoops loops, KvAttentionParts parts, long from, long to)
    {
        const int MostPositions = ChunkPositions + 4; // scores are padded to whole vectors
        var d = work.Shape.HeadDim;
        using var scratch = new Scratch();
        var query = scratch.Take<float>(Block * (long)d);
        var scores = scratch.Take<float>(Block * MostPositions);
        var scales = scratch.Take<float>(KvRows.ScaleFloats(d));
        for (var unit = from; unit < to; unit++)
        {
            var (b, kvHead, block, chunk) = parts.Unit(unit);
            var heads = Math.Min(Block, work.Shape.HeadsPerGroup - block * Block);
            var first = chunk * ChunkPositions;
            var count = Math.Min(ChunkPositions, work.Length(b) - first);
            LoadQuery(work, b, kvHead * work.Shape.HeadsPerGroup + block * Block, heads, query);

            loops.Score(query, work.Keys(b, kvHead) + first * work.KeyRowBytes, count, d, heads, scores, scales);
            var result = parts.Result(unit);
            loops.Weigh(scores, count, result);
            new Span<float>(result + KvAttentionParts.Head, Block * d).Clear();
            loops.Mix(
                scores, work.Values(b, kvHead) + first * work.ValueRowBytes, count, d, heads, result + KvAttentionParts.Head, scales);
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
        if (work.Length(b) == 0)
            return;
        var (first, chunks) = parts.UnitsOf(b, head);
        var (greatest, total) = (float.NegativeInfinity, 0f);
        for (var chunk = 0; chunk < chunks; chunk++)
            greatest = MathF.Max(greatest, parts.Result(first + chunk)[inBlock]);
        for (var chunk = 0; chunk < chunks; chunk++)
        {
            var result = parts.Result(first + chunk);
            // Where all scores of a chunk are −∞, so is its maximum, perhaps of all chunks; −∞ less −∞ would be NaN.
            var weight = float.IsNegativeInfinity(result[inBlock]) ? 0 : float.Exp2(result[inBlock] - greatest);
            total = MathF.FusedMultiplyAdd(weight, result[Block + inBlock], total);
            var values = result + KvAttentionParts.Head + inBlock * (long)d;
            for (var i = 0; i < d; i++)
                output[i] = MathF.FusedMultiplyAdd(weight, values[i], output[i]);
        }

        for (var i = 0; i < d; i++)
            output[i] /= total;
    }

    /// <summary>
    /// The units of work, a chunk of positions of a block of heads each, and where their results lie: the maxima and sums of a block's
    /// heads, then [heads, d] of weighted values.
    /// </summary>
    private sealed unsafe class KvAttentionParts
    {
        /// <summary>Floats before the values.</summary>
        public const int Head = 2 * Block;

        private readonly int _blocks;
        private readonly int _kvHeads;
        private readonly int _headsPerGroup;
        private readonly long[] _first; // units before each sequence
        private readonly int[] _chunks;
        private readonly long _floats;
        private readonly float* _results;

        public KvAttentionParts(in KvAttentionWork work, Scratch scratch)
        {
            var shape = work.Shape;
            (_kvHeads, _headsPerGroup, _blocks) = (shape.KvHeads, shape.HeadsPerGroup, (shape.HeadsPerGroup + Block - 1) / Block);
            (_first, _chunks) = (new long[shape.Batch], new int[shape.Batch]);
            for (var b = 0; b < shape.Batch; b++)
            {
                _first[b] = Count;
                _chunks[b] = (work.Length(b) + ChunkPositions - 1) / ChunkPositions;
                Count += (long)_kvHeads * _blocks * _chunks[b];
                Elements += 2L * work.Length(b) * shape.KvHeads * shape.HeadDim * _blocks;
            }

            _floats = Head + Block * (long)shape.HeadDim;
            _results = scratch.Take<float>(Count * _floats);
        }

        /// <summary>How many units there are.</summary>
        public long Count { get; }

        /// <summary>Elements of the cache that are read.</summary>
        public long Elements { get; }

        public float* Result(long unit) => _results + unit * _floats;

        /// <summary>What a unit is of. Chunks that follow each other are neighbours.</summary>
        public (int Sequence, int KvHead, int Block, int Chunk) Unit(long unit)
        {
            var b = 0;
            while (b + 1 < _first.Length && _first[b + 1] <= unit)
                b++;
            var (rest, chunk) = Math.DivRem(unit - _first[b], _chunks[b]);
            return (b, (int)(rest / _blocks), (int)(rest % _blocks), (int)chunk);
        }

        /// <summary>The units of a query head.</summary>
        public (long First, int Count) UnitsOf(int b, int head)
        {
            var block = (long)(head / _headsPerGroup) * _blocks + head % _headsPerGroup / Block;
            return (_first[b] + block * _chunks[b], _chunks[b]);
        }
    }
}
