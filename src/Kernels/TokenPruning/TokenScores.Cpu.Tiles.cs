using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class TokenScores
{
    // Keys of a tile lie transposed in the second-level cache, logits of a tile in the first.
    private const int TileKeys = 192;
    private const int TileRows = 32;

    /// <summary>
    /// Many rows: tiles of logits, products of 32 rows and 192 keys. If the log-sum-exp is not given, a first round over all tiles finds
    /// it. A tile of keys is one thread's, heads and rows go in order.
    /// </summary>
    private static void RunTiles<T>(in TokenScoresWork work) where T : unmanaged
    {
        switch (CpuSimd.ProductWidth)
        {
            case SimdWidth.Bits512:
                RunTiles<T, Lanes512<float>>(work);
                break;
            case SimdWidth.Bits256:
                RunTiles<T, Lanes256<float>>(work);
                break;
            case SimdWidth.Bits128:
                RunTiles<T, Lanes128<float>>(work);
                break;
            default:
                RunTiles<T, Lanes1<float>>(work);
                break;
        }
    }

    private static unsafe void RunTiles<T, TLanes>(TokenScoresWork work)
        where T : unmanaged
        where TLanes : struct, ILanes<TLanes, float>
    {
        using var scratch = new Scratch();
        var tiles = checked(work.Batch * ((work.Tokens + TileKeys - 1) / TileKeys));
        var heads = checked(work.Batch * work.QueryHeads);
        var threads = Threads(work, Math.Max(tiles, heads));
        var logSumExp = work.LogSumExp;
        var spaces = new TileSpace[threads];
        for (var part = 0; part < threads; part++)
            spaces[part] = new TileSpace(scratch, work, TileKeys);

        if (logSumExp == null)
        {
            logSumExp = scratch.Take<float>((long)heads * work.Rows);
            var found = logSumExp;
            ThreadTeam.Run(threads, part =>
            {
                var (from, to) = Share(heads, part, threads);
                for (var unit = from; unit < to; unit++)
                    FindLogSumExp<T, TLanes>(work, unit, spaces[part], found + (long)unit * work.Rows);
            });
        }

        var given = logSumExp;
        ThreadTeam.Run(threads, part =>
        {
            var (from, to) = Share(tiles, part, threads);
            for (var tile = from; tile < to; tile++)
                ScoreTile<T, TLanes>(work, tile, spaces[part], given);
        });
    }

    /// <summary>What a thread needs for a tile, or for a strip of all keys.</summary>
    private readonly unsafe struct TileSpace
    {
        public TileSpace(Scratch scratch, in TokenScoresWork work, int keys)
        {
            KeyStep = BlockedProduct<float, Lanes1<float>>.RowStep(keys);
            Keys = scratch.Take<float>((long)work.Depth * KeyStep);
            Queries = scratch.Take<float>((long)TileRows * work.Depth);
            Logits = scratch.Take<float>((long)TileRows * KeyStep);
            Sums = scratch.Take<float>(keys);
            Totals = scratch.Take<double>(keys);
            Largest = scratch.Take<float>(work.Rows);
            Exponentials = scratch.Take<double>(work.Rows);
        }

        /// <summary>Elements from one row of keys or logits to the next.</summary>
        public int KeyStep { get; }

        public float* Keys { get; }

        public float* Queries { get; }

        public float* Logits { get; }

        public float* Sums { get; }

        public double* Totals { get; }

        public float* Largest { get; }

        public double* Exponentials { get; }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void ScoreTile<T, TLanes>(in TokenScoresWork work, int tile, in TileSpace space, float* logSumExp)
        where T : unmanaged
        where TLanes : struct, ILanes<TLanes, float>
    {
        var perBatch = (work.Tokens + TileKeys - 1) / TileKeys;
        var (b, first) = (tile / perBatch, tile % perBatch * TileKeys);
        var keys = Math.Min(TileKeys, work.Tokens - first);
        var totals = new Span<double>(space.Totals, keys);
        totals.Clear();
        for (var head = 0; head < work.QueryHeads; head++)
        {
            if (head % work.Group == 0)
                Transpose<T>(work, b, head / work.Group, first, keys, space);
            for (var row = FirstRow(work, first); row < work.Rows; row += TileRows)
            {
                var rows = Math.Min(TileRows, work.Rows - row);
                Logits<T, TLanes>(work, b, head, row, rows, keys, space);
                new Span<float>(space.Sums, keys).Clear();
                for (var i = 0; i < rows; i++)
                {
                    var shift = logSumExp[((long)b * work.QueryHeads + head) * work.Rows + row + i];
                    var seen = Math.Clamp(work.Seen(row + i) - first, 0, keys);
                    ExpSums.Add(space.Logits + (long)i * space.KeyStep, seen, shift, 1, space.Sums);
                }

                var weight = (double)work.Weight(head);
                for (var j = 0; j < keys; j++)
                    totals[j] += weight * space.Sums[j];
            }
        }

        for (var j = 0; j < keys; j++)
            work.Scores[(long)b * work.Tokens + first + j] = (float)totals[j];
    }

    /// <summary>The log-sum-exp of all rows of a head, tile by tile: the largest logit so far, and the sum relative to it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void FindLogSumExp<T, TLanes>(in TokenScoresWork work, int unit, in TileSpace space, float* result)
        where T : unmanaged
        where TLanes : struct, ILanes<TLanes, float>
    {
        var (b, head) = (unit / work.QueryHeads, unit % work.QueryHeads);
        new Span<float>(space.Largest, work.Rows).Fill(float.NegativeInfinity);
        new Span<double>(space.Exponentials, work.Rows).Clear();
        for (var first = 0; first < work.Tokens; first += TileKeys)
        {
            var keys = Math.Min(TileKeys, work.Tokens - first);
            Transpose<T>(work, b, head / work.Group, first, keys, space);
            for (var row = FirstRow(work, first); row < work.Rows; row += TileRows)
            {
                var rows = Math.Min(TileRows, work.Rows - row);
                Logits<T, TLanes>(work, b, head, row, rows, keys, space);
                for (var i = row; i < row + rows; i++)
                {
                    var seen = Math.Clamp(work.Seen(i) - first, 0, keys);
                    if (seen == 0)
                        continue;
                    var logits = space.Logits + (long)(i - row) * space.KeyStep;
                    var largest = MathF.Max(space.Largest[i], ExpSums.Largest(logits, seen));
                    if (largest != space.Largest[i] && space.Exponentials[i] != 0)
                        space.Exponentials[i] *= Math.Exp((double)space.Largest[i] - largest);
                    space.Largest[i] = largest;
                    space.Exponentials[i] += ExpSums.Exponentials(logits, seen, largest);
                }
            }
        }

        for (var i = 0; i < work.Rows; i++)
            result[i] = (float)(space.Largest[i] + Math.Log(space.Exponentials[i]));
    }

    // Rows before see none of the tile's keys.
    private static int FirstRow(in TokenScoresWork work, int firstKey) =>
        work.Causal ? Math.Max(0, firstKey - (work.Tokens - work.Rows)) / TileRows * TileRows : 0;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Transpose<T>(in TokenScoresWork work, int b, int head, int first, int keys, in TileSpace space)
        where T : unmanaged
    {
        // As many keys at a time as a cache line of the destination has places. What is behind the last is not looked at.
        const int Together = 16;
        var sources = stackalloc T*[Together];
        for (var j = 0; j < space.KeyStep; j += Together)
        {
            for (var r = 0; r < Together; r++)
                sources[r] = (T*)work.Keys + work.KeyAt(b, head, first + Math.Min(j + r, keys - 1));
            for (var k = 0; k < work.Depth; k++)
            {
                var to = space.Keys + (long)k * space.KeyStep + j;
                for (var r = 0; r < Together; r++)
                    FloatVector1.Load(sources[r] + k).Store(to + r);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Logits<T, TLanes>(in TokenScoresWork work, int b, int head, int row, int rows, int keys, in TileSpace space)
        where T : unmanaged
        where TLanes : struct, ILanes<TLanes, float>
    {
        for (var i = 0; i < rows; i++)
        {
            var query = (T*)work.Queries + work.QueryAt(b, head, row + i);
            for (var k = 0; k < work.Depth; k++)
                (FloatVector1.Load(query + k) * FloatVector1.Broadcast(work.Scale)).Store(space.Queries + (long)i * work.Depth + k);
        }

        new Span<float>(space.Logits, rows * space.KeyStep).Clear();
        BlockedProduct<float, TLanes>.Add(
            rows, keys, work.Depth, Factor<float>.Rows(space.Queries, work.Depth), space.Keys, space.KeyStep, space.Logits, space.KeyStep);
    }
}
