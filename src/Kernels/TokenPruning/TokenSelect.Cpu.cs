using System.Numerics;
using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenSelect
{
    // A thread gets at least so many tokens: some 20 us of work, which waking it must be worth.
    private const int MinimumTokensPerThread = 16 * 1024;

    /// <summary>
    /// In two rounds: first the key of the last token kept and how many are kept, for each segment; then, when it is known where each
    /// segment's indices begin, the tokens above that key in order. So nothing has to be sorted.
    /// </summary>
    internal static unsafe void RunCpu(in TokenSelectWork work)
    {
        using var scratch = new Scratch();
        var blocks = new SegmentKeys(work, scratch);
        var threads = (int)Math.Min(ThreadTeam.Count(work.Tokens, MinimumTokensPerThread), Math.Max(1, work.Segments));
        var loops = Loops.For(CpuSimd.Width, work.ScoreType);
        if (threads == 1)
            loops.Rank(work, blocks, 0, work.Segments);
        else
            RankInParallel(work, blocks, loops, threads);

        work.Offsets[0] = 0;
        for (var b = 0; b < work.Segments; b++)
            work.Offsets[b + 1] = work.Offsets[b] + blocks.Cuts[b].Count;

        if (threads == 1)
            loops.Emit(work, blocks, 0, work.Segments);
        else
            EmitInParallel(work, blocks, loops, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static unsafe void RankInParallel(TokenSelectWork work, SegmentKeys blocks, Loops loops, int threads) => ThreadTeam.Run(
        threads, part => loops.Rank(work, blocks, Share(work, part, threads), Share(work, part + 1, threads)));

    private static unsafe void EmitInParallel(TokenSelectWork work, SegmentKeys blocks, Loops loops, int threads) => ThreadTeam.Run(
        threads, part => loops.Emit(work, blocks, Share(work, part, threads), Share(work, part + 1, threads)));

    /// <summary>The first segment of a thread: all have about as many tokens.</summary>
    private static unsafe int Share(in TokenSelectWork work, int part, int parts)
    {
        var from = work.Tokens * part / parts;
        var b = new ReadOnlySpan<int>(work.Bounds, work.Segments).BinarySearch((int)from);
        if (part == parts)
            return work.Segments;
        b = b < 0 ? ~b : b;
        while (b > 0 && work.Bounds[b - 1] == from) // empty segments begin where the next one does
            b--;
        return part == 0 ? 0 : b;
    }

    /// <summary>Where a segment is cut: what is above the key is kept, and the first few of what equals it.</summary>
    private struct Cut
    {
        public uint Key;
        public int Ties;
        public int Count;
    }

    /// <summary>The keys of all segments, each beginning on a block.</summary>
    private readonly unsafe struct SegmentKeys
    {
        private readonly uint* _keys, _spare;
        private readonly TokenSelectWork _work;

        public SegmentKeys(in TokenSelectWork work, Scratch scratch)
        {
            var size = work.Tokens + (work.Segments + 1L) * IKeyBlock.Count;
            _work = work;
            _keys = scratch.Take<uint>(size);
            _spare = scratch.Take<uint>(size);
            Cuts = scratch.Take<Cut>(Math.Max(1, work.Segments));
        }

        public Cut* Cuts { get; }

        public uint* Keys(int segment) => _keys + At(segment);

        /// <summary>As many more, for whatever the segment's ranking needs.</summary>
        public uint* Spare(int segment) => _spare + At(segment);

        // Blocks that lie before, rounded up for each segment.
        private long At(int segment) => (_work.Bounds[segment] / IKeyBlock.Count + (long)segment) * IKeyBlock.Count;
    }

    /// <summary>The loops for one vector width and type of scores.</summary>
    private readonly unsafe struct Loops(
        delegate*<in TokenSelectWork, in SegmentKeys, int, int, void> rank,
        delegate*<in TokenSelectWork, in SegmentKeys, int, int, void> emit)
    {
        private readonly delegate*<in TokenSelectWork, in SegmentKeys, int, int, void> _rank = rank, _emit = emit;

        public static Loops For(SimdWidth width, DType type) => width switch
        {
            SimdWidth.Bits512 => For<KeyBlock8, FloatVector16>(type),
            SimdWidth.Bits256 => For<KeyBlock8, FloatVector8>(type),
            SimdWidth.Bits128 => For<KeyBlock4, FloatVector4>(type),
            _ => For<KeyBlock1, FloatVector1>(type),
        };

        public void Rank(in TokenSelectWork work, in SegmentKeys blocks, int from, int to) => _rank(work, blocks, from, to);

        public void Emit(in TokenSelectWork work, in SegmentKeys blocks, int from, int to) => _emit(work, blocks, from, to);

        private static Loops For<TBlock, TVector>(DType type)
            where TBlock : struct, IKeyBlock
            where TVector : struct, IFloatVector<TVector> =>
            type switch
            {
                DType.Float32 => new(&RankAll<TBlock, TVector, float>, &EmitAll<TBlock>),
                DType.BFloat16 => new(&RankAll<TBlock, TVector, BFloat16>, &EmitAll<TBlock>),
                _ => new(&RankAll<TBlock, TVector, Half>, &EmitAll<TBlock>),
            };
    }

    private static unsafe void RankAll<TBlock, TVector, TScore>(in TokenSelectWork work, in SegmentKeys blocks, int from, int to)
        where TBlock : struct, IKeyBlock
        where TVector : struct, IFloatVector<TVector>
        where TScore : unmanaged
    {
        for (var b = from; b < to; b++)
        {
            var length = work.Bounds[b + 1] - work.Bounds[b];
            var keys = blocks.Keys(b);
            var spare = blocks.Spare(b);
            var nan = Encode<TBlock, TVector, TScore>((TScore*)work.Scores + work.Bounds[b], length, keys);
            if (work.NaNCounts != null)
                work.NaNCounts[b] = nan;

            // The outliers' bound is that of all scores, so it is found before the keys of what is always kept are raised.
            var budget = work.BudgetOf(b);
            var bound = budget.Rule switch
            {
                BudgetRule.Threshold => ScoreKey.Of((float)budget.Value),
                BudgetRule.Outliers => KeyRank<TBlock>.OutlierBound(keys, length, nan, budget.Value, spare),
                _ => 0u,
            };
            var always = work.Always == null ? 0 : Raise(work.Always + work.Bounds[b], length, keys);
            var count = budget.Rule switch
            {
                BudgetRule.Threshold or BudgetRule.Outliers => KeyBlocks<TBlock>.CountAtLeast(keys, length, bound),
                BudgetRule.TopP => KeyRank<TBlock>.CountOfMass(work, work.Bounds[b], length, keys, spare),
                _ => budget.MostOf(length),
            };
            count = budget.Limit(count, length, always);
            blocks.Cuts[b] = CutAt<TBlock>(keys, length, count, spare);
        }
    }

    private static unsafe Cut CutAt<TBlock>(uint* keys, int length, int count, uint* spare) where TBlock : struct, IKeyBlock
    {
        if (count == 0)
            return new() { Key = uint.MaxValue };
        var (key, above) = KeyRank<TBlock>.Largest(keys, length, count, spare);
        return new() { Key = key, Ties = count - above, Count = count };
    }

    /// <summary>Makes a segment's keys. How many scores are NaN.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe int Encode<TBlock, TVector, TScore>(TScore* scores, int length, uint* keys)
        where TBlock : struct, IKeyBlock
        where TVector : struct, IFloatVector<TVector>
        where TScore : unmanaged
    {
        var wide = stackalloc float[IKeyBlock.Count];
        var (nan, at) = (0, 0);
        for (; at <= length - IKeyBlock.Count; at += IKeyBlock.Count)
        {
            var block = (float*)(scores + at);
            if (typeof(TScore) != typeof(float))
            {
                for (var i = 0; i < IKeyBlock.Count; i += TVector.Count)
                    TVector.Load(scores + at + i).Store(wide + i);
                block = wide;
            }

            nan += BitOperations.PopCount(TBlock.Encode(block, keys + at));
        }

        if (at == length)
            return nan;
        for (var i = 0; i < IKeyBlock.Count; i++)
        {
            if (at + i < length)
                FloatVector1.Load(scores + at + i).Store(wide + i);
            else
                wide[i] = 0;
        }

        return nan + BitOperations.PopCount(TBlock.Encode(wide, keys + at));
    }

    /// <summary>Puts what is always kept above all scores. How many that are.</summary>
    private static unsafe int Raise(byte* always, int length, uint* keys)
    {
        var count = 0;
        for (var i = 0; i < length; i++)
        {
            if (always[i] == 0)
                continue;
            keys[i] = ScoreKey.Always;
            count++;
        }

        return count;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void EmitAll<TBlock>(in TokenSelectWork work, in SegmentKeys blocks, int from, int to)
        where TBlock : struct, IKeyBlock
    {
        for (var b = from; b < to; b++)
        {
            var (first, length, cut) = (work.Bounds[b], work.Bounds[b + 1] - work.Bounds[b], blocks.Cuts[b]);
            if (work.Slots != null)
                new Span<int>(work.Slots + first, length).Fill(-1);
            var keys = blocks.Keys(b);
            var (place, ties) = (work.Offsets[b], cut.Ties);
            for (var at = 0; at < length && place < work.Offsets[b + 1]; at += IKeyBlock.Count)
            {
                var valid = KeyBlocks<TBlock>.Valid(length - at);
                var kept = TBlock.Above(keys + at, cut.Key);
                if (ties > 0)
                {
                    var equal = KeyBlocks<TBlock>.AtLeast(keys + at, cut.Key) & ~kept & valid;
                    for (; equal != 0 && ties > 0; equal &= equal - 1, ties--)
                        kept |= equal & (0 - equal);
                }

                for (kept &= valid; kept != 0; kept &= kept - 1)
                {
                    var token = first + at + BitOperations.TrailingZeroCount(kept);
                    if (work.Slots != null)
                        work.Slots[token] = place;
                    work.Indices[place++] = token;
                }
            }
        }
    }
}
