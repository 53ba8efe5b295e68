using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;
using Bits = ILGPU.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// TokenSelect's device code for ILGPU: a block ranks a segment by digits of eight bits, as <c>TokenSelect.Cpu.Rank.cs</c> does, and emits
/// what is kept in order. Threads meet at barriers only, and add to shared counters, so that the order in which they run is of no account:
/// all that is added is an integer.
/// </summary>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal static partial class TokenSelectKernel
{
    /// <summary>Threads of a block; on a device with smaller ones, a warp.</summary>
    public const int Threads = 256;

    /// <summary>Finds where segments are cut.</summary>
    public const int Rank = 1;

    /// <summary>Writes what is kept.</summary>
    public const int Emit = 2;

    private const int Digits = 256, Coarse = 16;

    /// <summary>A block a segment; one block that writes the first offset where there is none.</summary>
    public static void Select(TokenSelectKernelViews views)
    {
        var space = new RankSpace
        {
            Counts = SharedMemory.Allocate<int>(Digits),
            Sums = SharedMemory.Allocate<int>(Coarse),
            Masses = SharedMemory.Allocate<ulong>(Digits),
            MassSums = SharedMemory.Allocate<ulong>(Coarse),
            Above = SharedMemory.Allocate<int>(Threads),
            Equal = SharedMemory.Allocate<int>(Threads),
        };
        if (Grid.IdxX == 0 && Group.IdxX == 0)
            views.Offsets[0] = 0;
        if (views.Segments == 0)
            return;
        var segment = Segment(views, Grid.IdxX);
        var cut = new TokenCut { Key = ScoreKey.Always };
        if ((views.Phases & Rank) == 0)
            cut = views.Cuts[Grid.IdxX];
        else
            cut = CutOf(views, segment, space);
        if ((views.Phases & Emit) != 0)
            Write(views, segment, cut, space);
        else if (Group.IdxX == 0)
            views.Cuts[Grid.IdxX] = cut;
    }

    // What bounds in device memory say is checked nowhere else.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Range Segment(TokenSelectKernelViews views, int segment)
    {
        var first = Math.Max(0, Math.Min(views.Bounds[segment], views.Tokens));
        return new() { First = first, Length = Math.Max(0, Math.Min(views.Bounds[segment + 1], views.Tokens) - first) };
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TokenCut CutOf(TokenSelectKernelViews views, Range segment, RankSpace space)
    {
        var nan = 0;
        if (views.NaNCounts.Length > 0 || views.Rule == BudgetRule.Outliers)
            nan = Count(views, segment, space, Counted.NaN, 0);
        if (views.NaNCounts.Length > 0 && Group.IdxX == 0)
            views.NaNCounts[Grid.IdxX] = nan;
        var always = views.Always.Length > 0 ? Count(views, segment, space, Counted.Always, 0) : 0;

        var count = MostOf(views, segment.Length);
        if (views.Rule == BudgetRule.Threshold || views.Rule == BudgetRule.Outliers)
        {
            var bound = views.Rule == BudgetRule.Threshold
                ? KeyOf((float)views.Value)
                : OutlierBound(views, segment, segment.Length - nan, space);
            count = Count(views, segment, space, Counted.AtLeast, bound);
        }
        else if (views.Rule == BudgetRule.TopP)
        {
            count = CountOfMass(views, segment, always, space);
        }

        count = Limited(views, count, segment.Length, always);
        var cut = new TokenCut { Key = ScoreKey.Always, Ties = 0, Count = count };
        if (count > 0)
        {
            var last = Largest(views, segment, count, raised: 1, space);
            cut.Key = last.Key;
            cut.Ties = count - last.Above;
        }

        return cut;
    }

    /// <summary>What the rule says of a segment by its length alone.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int MostOf(TokenSelectKernelViews views, int length)
    {
        if (views.Rule == BudgetRule.Count)
            return views.Count;
        return views.Rule == BudgetRule.Ratio ? (int)(KernelMath.Multiply(views.Value, length) + 0.5) : length;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Limited(TokenSelectKernelViews views, int count, int length, int always)
    {
        var (lowest, highest) = (Math.Min(views.Minimum, length), Math.Min(views.Maximum, length));
        return Math.Max(always, Math.Max(lowest, Math.Min(count, highest)));
    }

    /// <summary>The k-th largest key, and how many are greater.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Ranked Largest(TokenSelectKernelViews views, Range segment, int k, int raised, RankSpace space)
    {
        var (key, mask, left) = (0u, 0u, k);
        for (var shift = 24; shift >= 0; shift -= 8)
        {
            for (var digit = Group.IdxX; digit < Digits; digit += Group.DimX)
                space.Counts[digit] = 0;
            Group.Barrier();
            for (var i = Group.IdxX; i < segment.Length; i += Group.DimX)
            {
                var own = raised != 0 ? Raised(views, segment.First + i) : KeyOf(Score(views, segment.First + i));
                if ((own & mask) == key)
                    Atomic.Add(ref space.Counts[(int)(own >> shift & 0xFF)], 1);
            }

            Group.Barrier();
            for (var upper = Group.IdxX; upper < Coarse; upper += Group.DimX)
            {
                var sum = 0;
                for (var i = 0; i < Digits / Coarse; i++)
                    sum += space.Counts[upper * (Digits / Coarse) + i];
                space.Sums[upper] = sum;
            }

            Group.Barrier();
            var (at, above) = (Coarse - 1, 0); // every thread reads the same
            for (; at > 0 && above + space.Sums[at] < left; at--)
                above += space.Sums[at];
            for (at = at * (Digits / Coarse) + Digits / Coarse - 1; at > 0 && above + space.Counts[at] < left; at--)
                above += space.Counts[at];
            key |= (uint)at << shift;
            mask |= 0xFFu << shift;
            left -= above;
            Group.Barrier();
        }

        return new() { Key = key, Above = k - left };
    }

    /// <summary>The least key of scores above the outliers' bound.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint OutlierBound(TokenSelectKernelViews views, Range segment, int numbers, RankSpace space)
    {
        if (numbers == 0) // as all threads see
            return ScoreKey.Always;
        var (first, third) = (0.0, 0.0);
        for (var quarters = 1; quarters <= 3; quarters += 2)
        {
            first = third;
            third = Quartile(views, segment, numbers, quarters, space);
        }

        var bound = third + KernelMath.Multiply(views.Value, third - first);
        if (double.IsNaN(bound))
            return ScoreKey.Always;
        var nearest = (float)bound;
        var key = KeyOf(nearest);
        return nearest > bound ? key : key + 1; // keys of neighbours are neighbours
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static double Quartile(TokenSelectKernelViews views, Range segment, int numbers, int quarters, RankSpace space)
    {
        var place = (ulong)(numbers - 1) * (ulong)quarters;
        var (belowPlace, abovePlace, rest) = ((int)(place >> 2), (int)((place + 3) >> 2), (int)(place & 3));
        var below = Largest(views, segment, numbers - belowPlace, raised: 0, space);
        var above = below.Key;
        if (abovePlace != belowPlace && below.Above == numbers - abovePlace)
            above = NextAbove(views, segment, below.Key, space);
        double low = ScoreOf(below.Key), high = ScoreOf(above);
        return low == high ? low : low + KernelMath.Multiply(high - low, rest * 0.25);
    }

    /// <summary>The least key of a score above another one, which is not the greatest.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint NextAbove(TokenSelectKernelViews views, Range segment, uint than, RankSpace space)
    {
        var own = ScoreKey.Always;
        for (var i = Group.IdxX; i < segment.Length; i += Group.DimX)
        {
            var key = KeyOf(Score(views, segment.First + i));
            own = key > than && key < own ? key : own;
        }

        return ~Greatest(space, ~own);
    }

    /// <summary>How many tokens from the top have the mass that is wanted, beginning with what is always kept.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int CountOfMass(TokenSelectKernelViews views, Range segment, int always, RankSpace space)
    {
        var greatest = 0u; // of positive scores bits and scores have one order
        for (var i = Group.IdxX; i < segment.Length; i += Group.DimX)
        {
            var score = Score(views, segment.First + i);
            var bits = Bits.FloatAsInt(score);
            greatest = score > 0 && bits > greatest ? bits : greatest;
        }

        var largest = Bits.IntAsFloat(Greatest(space, greatest));
        var (sum, kept) = (0ul, 0ul);
        for (var i = Group.IdxX; i < segment.Length; i += Group.DimX)
        {
            var own = (ulong)Mass(largest, Score(views, segment.First + i));
            sum += own;
            kept += IsAlways(views, segment.First + i) ? own : 0;
        }

        var wanted = Wanted(views.Value, Sum(space, sum));
        kept = Sum(space, kept);
        if (wanted <= kept) // as all threads see
            return always;
        wanted -= kept;

        var (key, mask, count) = (0u, 0u, always);
        for (var shift = 24; shift >= 0; shift -= 8)
        {
            for (var digit = Group.IdxX; digit < Digits; digit += Group.DimX)
            {
                space.Counts[digit] = 0;
                space.Masses[digit] = 0;
            }

            Group.Barrier();
            for (var i = Group.IdxX; i < segment.Length; i += Group.DimX)
            {
                var score = Score(views, segment.First + i);
                var own = KeyOf(score);
                if ((own & mask) != key || IsAlways(views, segment.First + i))
                    continue;
                var digit = (int)(own >> shift & 0xFF);
                Atomic.Add(ref space.Counts[digit], 1);
                Atomic.Add(ref space.Masses[digit], Mass(largest, score));
            }

            Group.Barrier();
            for (var upper = Group.IdxX; upper < Coarse; upper += Group.DimX)
            {
                var (counts, masses) = (0, 0ul);
                for (var i = 0; i < Digits / Coarse; i++)
                {
                    counts += space.Counts[upper * (Digits / Coarse) + i];
                    masses += space.Masses[upper * (Digits / Coarse) + i];
                }

                space.Sums[upper] = counts;
                space.MassSums[upper] = masses;
            }

            Group.Barrier();
            var at = Coarse - 1; // every thread reads the same
            for (; at > 0 && space.MassSums[at] < wanted; at--)
            {
                wanted -= space.MassSums[at];
                count += space.Sums[at];
            }

            for (at = at * (Digits / Coarse) + Digits / Coarse - 1; at > 0 && space.Masses[at] < wanted; at--)
            {
                wanted -= space.Masses[at];
                count += space.Counts[at];
            }

            key |= (uint)at << shift;
            mask |= 0xFFu << shift;
            if (shift == 0)
            {
                var one = space.Masses[at] / (ulong)space.Counts[at]; // equal scores have equal masses
                count += (int)((wanted + one - 1) / one);
            }

            Group.Barrier();
        }

        return count;
    }

    // TokenMass, whose scale is 2^(31 − e) where 2^e ≤ largest < 2^(e+1).
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Mass(float largest, float score)
    {
        var exponent = (int)(Bits.FloatAsInt((double)largest) >> 52) - 1023; // no float32 is subnormal as float64
        var scale = Bits.IntAsFloat((ulong)(1023 + 31 - exponent) << 52);
        if (largest == float.PositiveInfinity)
            return score == float.PositiveInfinity ? 1u : 0;
        return score > 0 ? (uint)(score * scale) : 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Wanted(double share, ulong sum)
    {
        var exact = share * sum;
        var below = (ulong)exact;
        var ceiling = below < exact ? below + 1 : below;
        return share >= 1 || ceiling > sum ? sum : ceiling;
    }

    /// <summary>A thread has a stretch: first it counts what is kept there, then it knows where its own go.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(TokenSelectKernelViews views, Range segment, TokenCut cut, RankSpace space)
    {
        var before = 0;
        for (var b = Group.IdxX; b < Grid.IdxX; b += Group.DimX)
        {
            var length = Segment(views, b).Length;
            before += views.Cuts.Length > 0 ? views.Cuts[b].Count : Limited(views, MostOf(views, length), length, 0);
        }

        before = Sum(space, before);
        if (Group.IdxX == 0)
            views.Offsets[Grid.IdxX + 1] = before + cut.Count;

        var stretch = (segment.Length + Group.DimX - 1) / Group.DimX;
        var from = Math.Min(segment.Length, stretch * Group.IdxX);
        var to = Math.Min(segment.Length, from + stretch);
        var (above, equal) = (0, 0);
        for (var i = from; i < to; i++)
        {
            var key = Raised(views, segment.First + i);
            above += key > cut.Key ? 1 : 0;
            equal += key == cut.Key ? 1 : 0;
        }

        space.Above[Group.IdxX] = above;
        space.Equal[Group.IdxX] = equal;
        Group.Barrier();
        (above, equal) = (0, 0);
        for (var thread = 0; thread < Group.IdxX; thread++)
        {
            above += space.Above[thread];
            equal += space.Equal[thread];
        }

        for (var i = from; i < to; i++)
        {
            var key = Raised(views, segment.First + i);
            var isKept = key > cut.Key || (key == cut.Key && equal < cut.Ties);
            var slot = isKept ? before + above + Math.Min(equal, cut.Ties) : -1;
            if (views.Slots.Length > 0)
                views.Slots[segment.First + i] = slot;
            if (slot >= 0 && slot < views.Indices.Length)
                views.Indices[slot] = segment.First + i;
            above += key > cut.Key ? 1 : 0;
            equal += key == cut.Key ? 1 : 0;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Count(TokenSelectKernelViews views, Range segment, RankSpace space, Counted what, uint bound)
    {
        var own = 0;
        for (var i = Group.IdxX; i < segment.Length; i += Group.DimX)
        {
            var token = segment.First + i;
            var holds = what == Counted.NaN ? float.IsNaN(Score(views, token))
                : what == Counted.Always ? IsAlways(views, token) : Raised(views, token) >= bound;
            own += holds ? 1 : 0;
        }

        return Sum(space, own);
    }

    private enum Counted
    {
        NaN,
        Always,
        AtLeast,
    }

    private struct Range
    {
        public int First, Length;
    }

    private struct Ranked
    {
        public uint Key;
        public int Above;
    }

    /// <summary>What the threads of a block share.</summary>
    private struct RankSpace
    {
        public ArrayView<int> Counts, Sums;
        public ArrayView<ulong> Masses, MassSums;
        public ArrayView<int> Above, Equal;
    }
}

/// <summary>Where a segment is cut: what is above the key is kept, and the first few of what equals it.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct TokenCut
{
    public uint Key;
    public int Ties, Count, Reserved;
}

/// <summary>What the kernel works on; one of the two views of scores is empty, and so is what is not wanted.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct TokenSelectKernelViews
{
    public ArrayView<float> Scores;
    public ArrayView<ushort> NarrowScores;
    public ArrayView<int> Bounds;
    public ArrayView<byte> Always;
    public ArrayView<int> Indices;
    public ArrayView<int> Offsets;
    public ArrayView<int> Slots;
    public ArrayView<int> NaNCounts;

    /// <summary>Empty where one launch does all.</summary>
    public ArrayView<TokenCut> Cuts;

    public double Value;
    public int Tokens;
    public int Segments;
    public int Phases;
    public FloatKind Kind;
    public BudgetRule Rule;
    public int Count;
    public int Minimum;
    public int Maximum;
}
