using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

public static partial class KvWindowScores
{
    // A thread gets at least this many products of elements: some 20 us of work, which waking it must be worth.
    private const long MinimumProductsPerThread = 2 * 1024 * 1024;

    // Keys whose products with all rows of a strip stay in the second-level cache.
    private const int TileKeys = 64;

    // Weights of a strip of rows, which are read again when their sums are known: they stay in the third-level cache.
    private const int StripWeights = 2 * 1024 * 1024;
    private const int LeastRows = 16;

    private static unsafe void RunCpu(in KvWindowProduct work)
    {
        var units = (long)work.Heads * work.Rows * work.Positions * work.Depth;
        var threads = Math.Max(1, Math.Min(ThreadTeam.Count(units, MinimumProductsPerThread), work.Heads));
        delegate*<in KvWindowProduct, int, int, void> part = CpuSimd.ProductWidth switch // of the caller's width, not a worker's
        {
            SimdWidth.Bits512 => &Part<FloatVector16, Lanes512<float>>,
            SimdWidth.Bits256 => &Part<FloatVector8, Lanes256<float>>,
            SimdWidth.Bits128 => &Part<FloatVector4, Lanes128<float>>,
            _ => &Part<FloatVector1, Lanes1<float>>,
        };
        if (threads == 1)
            part(work, 0, work.Heads);
        else
            RunThreads(work, part, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static unsafe void RunThreads(
        KvWindowProduct work, delegate*<in KvWindowProduct, int, int, void> run, int threads) =>
        ThreadTeam.Run(
            threads, part => run(work, (int)((long)work.Heads * part / threads), (int)((long)work.Heads * (part + 1) / threads)));

    private static unsafe void Part<TVector, TLanes>(in KvWindowProduct work, int from, int to)
        where TVector : struct, IFloatVector<TVector>
        where TLanes : struct, ILanes<TLanes, float>
    {
        using var scratch = new Scratch();
        var rows = Math.Clamp(StripWeights / Math.Max(1, work.Positions) / LeastRows * LeastRows, LeastRows, work.Rows + LeastRows - 1);
        var space = new Strip(scratch, work, Math.Min(rows, work.Rows));
        for (var head = from; head < to; head++)
        {
            new Span<float>(work.Scores(head), work.Positions).Clear();
            for (var row = 0; row < work.Rows; row += space.Rows)
                AddStrip<TVector, TLanes>(work, head, row, Math.Min(space.Rows, work.Rows - row), space);
        }
    }

    /// <summary>
    /// Adds a strip of rows. Lanes are rows, so that keys are read where they lie: of a tile of keys, the products, then weights, powers of
    /// 2 below the greatest so far. When that of all keys is known, a tile's weights are mended by the difference, and by the sums.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void AddStrip<TVector, TLanes>(in KvWindowProduct work, int head, int row, int rows, in Strip strip)
        where TVector : struct, IFloatVector<TVector>
        where TLanes : struct, ILanes<TLanes, float>
    {
        var (step, positions, depth) = (strip.Step, work.Positions, work.Depth);
        Transpose(work, head, row, rows, strip);
        new Span<float>(strip.Greatest, step).Fill(float.MinValue); // not −∞, from which nothing can be subtracted
        new Span<float>(strip.Sums, step).Clear();
        for (var key = 0; key < positions; key += TileKeys)
        {
            var keys = Math.Min(TileKeys, positions - key);
            var tile = strip.Weights + (long)key * step;
            new Span<float>(tile, keys * step).Clear();
            BlockedProduct<float, TLanes>.Add(
                keys, rows, depth, Factor<float>.Rows(work.Key(head, key), (nint)work.KeyStep), strip.Queries, step, tile, step);
            Hide(work, row, rows, key, keys, tile, step);
            for (var i = 0; i < rows; i += TVector.Count)
                Weigh<TVector>(tile + i, keys, step, strip.Greatest + i, strip.Sums + i);
            new ReadOnlySpan<float>(strip.Greatest, step).CopyTo(new(strip.GreatestOf(key / TileKeys), step));
        }

        for (var key = 0; key < positions; key += TileKeys)
        {
            var shares = strip.GreatestOf(key / TileKeys);
            for (var i = 0; i < rows; i += TVector.Count)
            {
                var mend = KvDecodeAttention.Exp2(TVector.Load(shares + i) - TVector.Load(strip.Greatest + i));
                (mend * TVector.Broadcast(1f / work.Rows) / TVector.Load(strip.Sums + i)).Store(shares + i);
            }

            new Span<float>(shares + rows, step - rows).Clear(); // what was no row
            Collect<TVector>(
                strip.Weights + (long)key * step, Math.Min(TileKeys, positions - key), rows, step, shares, work.Scores(head) + key);
        }
    }

    /// <summary>[d, rows] of a strip's queries, times scale and log₂ e; behind them the last row again, since 0 times ∞ is NaN.</summary>
    private static unsafe void Transpose(in KvWindowProduct work, int head, int row, int rows, in Strip strip)
    {
        var factor = (float)(work.Scale * double.Log2(Math.E));
        for (var k = 0; k < work.Depth; k++)
        {
            var to = new Span<float>(strip.Queries + (long)k * strip.Step, strip.Step);
            for (var i = 0; i < to.Length; i++)
                to[i] = work.Query(head, row + Math.Min(i, rows - 1))[k] * factor;
        }
    }

    /// <summary>Rows do not see what comes after them.</summary>
    private static unsafe void Hide(in KvWindowProduct work, int row, int rows, int key, int keys, float* tile, int step)
    {
        for (var j = Math.Max(0, work.Positions - work.Window + 1 - key); work.IsCausal && j < keys; j++)
        {
            for (var i = 0; i < step; i++)
            {
                if (key + j >= work.Seen(row + Math.Min(i, rows - 1)))
                    tile[(long)j * step + i] = float.NegativeInfinity;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Weigh<TVector>(float* column, int keys, int step, float* greatest, float* sums)
        where TVector : struct, IFloatVector<TVector>
    {
        var before = TVector.Load(greatest);
        var most = before;
        for (var j = 0; j < keys; j++)
            most = TVector.Greater(TVector.Load(column + (long)j * step), most);
        most.Store(greatest);

        var ofTile = TVector.Broadcast(0); // apart from the sum so far, beside which single weights would be rounded away
        for (var j = 0; j < keys; j++)
        {
            var weight = KvDecodeAttention.Exp2(TVector.Load(column + (long)j * step) - most);
            weight.Store(column + (long)j * step);
            ofTile += weight;
        }

        (TVector.Load(sums) * KvDecodeAttention.Exp2(before - most) + ofTile).Store(sums);
    }

    /// <summary>Adds to each key's score its weights times the rows' shares.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Collect<TVector>(float* weights, int keys, int rows, int step, float* shares, float* scores)
        where TVector : struct, IFloatVector<TVector>
    {
        const int Four = 4;
        var j = 0;
        for (; j <= keys - Four; j += Four, weights += Four * step, scores += Four)
        {
            var zero = TVector.Broadcast(0);
            var (a, b, c, d) = (zero, zero, zero, zero);
            for (var i = 0; i < rows; i += TVector.Count)
            {
                var share = TVector.Load(shares + i);
                a = TVector.MultiplyAdd(TVector.Load(weights + i), share, a);
                b = TVector.MultiplyAdd(TVector.Load(weights + step + i), share, b);
                c = TVector.MultiplyAdd(TVector.Load(weights + 2 * step + i), share, c);
                d = TVector.MultiplyAdd(TVector.Load(weights + 3 * step + i), share, d);
            }

            (Vector128.Load(scores) + TVector.SumEach(a, b, c, d)).Store(scores);
        }

        for (; j < keys; j++, weights += step, scores++)
        {
            var sum = TVector.Broadcast(0);
            for (var i = 0; i < rows; i += TVector.Count)
                sum = TVector.MultiplyAdd(TVector.Load(weights + i), TVector.Load(shares + i), sum);
            *scores += TVector.SumEach(sum, sum, sum, sum)[0];
        }
    }

    /// <summary>What a thread needs for a strip of rows. A row of each of its blocks has <see cref="Step"/> elements.</summary>
    private readonly unsafe struct Strip
    {
        private readonly float* _greatestOfTiles;

        public Strip(Scratch scratch, in KvWindowProduct work, int rows)
        {
            Rows = rows;
            Step = BlockedProduct<float, Lanes1<float>>.RowStep(rows);
            Queries = scratch.Take<float>((long)work.Depth * Step);
            Weights = scratch.Take<float>((long)work.Positions * Step);
            Greatest = scratch.Take<float>(Step);
            Sums = scratch.Take<float>(Step);
            _greatestOfTiles = scratch.Take<float>((long)(work.Positions / TileKeys + 1) * Step);
        }

        public int Rows { get; }

        public int Step { get; }

        public float* Queries { get; }

        public float* Weights { get; }

        public float* Greatest { get; }

        public float* Sums { get; }

        /// <summary>The greatest when a tile was weighed, and later the rows' shares of its weights.</summary>
        public float* GreatestOf(int tile) => _greatestOfTiles + (long)tile * Step;
    }
}
