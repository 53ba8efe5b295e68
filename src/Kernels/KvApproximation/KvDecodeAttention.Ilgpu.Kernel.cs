using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;
using Bits = ILGPU.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// KvDecodeAttention's device code for ILGPU, of contiguous caches in float32. A block has up to four query heads that share a head of the
/// cache, and a split of its positions, of which it takes 32 at a time: eight threads multiply a key, each every eighth of its elements;
/// then a thread has a score, and then a column of the values. Maxima and sums are carried along (online softmax). A second kernel merges
/// the splits in their order. No sum depends on how many threads a block has, and none on which comes first.
/// </summary>
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal static class KvDecodeAttentionKernel
{
    /// <summary>Threads of a block, a multiple of the heads; on a device with smaller ones, a warp.</summary>
    public const int Threads = 128;

    /// <summary>Query heads that share each key and value that is read.</summary>
    public const int Heads = 4;

    /// <summary>Positions that a block works on at a time.</summary>
    public const int Tile = 32;

    /// <summary>The most elements of a head.</summary>
    public const int MostElements = 256;

    private const int Lanes = 8; // threads that share a key

    /// <summary>A split: its maxima, sums and weighted values, or the output where there is one split.</summary>
    public static void Attend(KvDecodeAttentionViews views)
    {
        var space = new Space
        {
            Query = SharedMemory.Allocate<Float4>(MostElements),
            Sums = SharedMemory.Allocate<Float4>(MostElements),
            Partial = SharedMemory.Allocate<Float4>(Tile * Lanes),
            Scores = SharedMemory.Allocate<float>(Tile * Heads),
            Weights = SharedMemory.Allocate<float>(Tile * Heads),
            Shrink = SharedMemory.Allocate<float>(Heads),
            Totals = SharedMemory.Allocate<float>(Heads),
        };
        var place = PlaceOf(views);
        for (var i = Group.IdxX; i < views.HeadDim; i += Group.DimX)
        {
            space.Query[i] = new()
            {
                X = QueryOf(views, place, 0, i), Y = QueryOf(views, place, 1, i), Z = QueryOf(views, place, 2, i),
                W = QueryOf(views, place, 3, i),
            };
            space.Sums[i] = default;
        }

        Group.Barrier();
        var running = new Running { Greatest = float.NegativeInfinity };
        for (var first = 0; first < place.Count; first += Tile)
        {
            var count = Math.Min(Tile, place.Count - first);
            Multiply(views, space, place.Keys + (long)first * views.HeadDim, count);
            Group.Barrier();
            for (var i = Group.IdxX; i < Tile * Heads; i += Group.DimX)
                space.Scores[i] = i / Heads < count ? ScoreOf(space, i / Heads, i % Heads) : float.NegativeInfinity;
            Group.Barrier();
            running = Weigh(space, running);
            Group.Barrier();
            running = AddWeights(space, running);
            Mix(views, space, place.Values + (long)first * views.HeadDim, count);
        }

        Write(views, space, place, running);
    }

    /// <summary>Merges the splits of each query head: a thread an element of the output.</summary>
    public static void Merge(KvDecodeAttentionViews views)
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at >= views.Output.Length)
            return;
        var row = at / views.HeadDim;
        var column = (int)(at - row * views.HeadDim);
        var sequence = (int)(row / views.QueryHeads);
        var head = (int)(row - (long)sequence * views.QueryHeads);
        var length = LengthOf(views, sequence, head / (views.QueryHeads / views.KvHeads));
        var each = PositionsOfSplit(views, length);
        var first = row * views.Splits;
        var greatest = float.NegativeInfinity;
        for (var split = 0; (long)split * each < length; split++)
            greatest = views.Maxima[first + split] > greatest ? views.Maxima[first + split] : greatest;
        var (total, value) = (0f, 0f);
        for (var split = 0; (long)split * each < length; split++)
        {
            var maximum = views.Maxima[first + split];
            var share = float.IsNegativeInfinity(maximum) ? 0 : Exp2(maximum - greatest); // −∞ less −∞ would be NaN
            total = KernelMath.MultiplyAdd(share, views.Totals[first + split], total);
            value = KernelMath.MultiplyAdd(share, views.Partials[(first + split) * views.HeadDim + column], value);
        }

        views.Output[at] = length == 0 ? 0 : value / total;
    }

    /// <summary>What a block is of; splits of a head are neighbours.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Place PlaceOf(KvDecodeAttentionViews views)
    {
        var group = views.QueryHeads / views.KvHeads;
        var headBlocks = (group + Heads - 1) / Heads;
        var unit = Grid.IdxX / views.Splits;
        var split = Grid.IdxX - unit * views.Splits;
        var stored = unit / headBlocks;
        var firstHead = (unit - stored * headBlocks) * Heads;
        var sequence = stored / views.KvHeads;
        var kvHead = stored - sequence * views.KvHeads;
        var length = LengthOf(views, sequence, kvHead);
        var each = PositionsOfSplit(views, length);
        var first = (int)Math.Min((long)split * each, length);
        return new()
        {
            Split = split,
            Heads = Math.Min(Heads, group - firstHead),
            FirstRow = (long)sequence * views.QueryHeads + kvHead * group + firstHead,
            Count = Math.Min(each, length - first),
            Keys = sequence * views.KeySequenceStep + kvHead * views.KeyHeadStep + (long)first * views.HeadDim,
            Values = sequence * views.ValueSequenceStep + kvHead * views.ValueHeadStep + (long)first * views.HeadDim,
        };
    }

    // What lengths in device memory say is checked nowhere else.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int LengthOf(KvDecodeAttentionViews views, int sequence, int kvHead)
    {
        var at = views.LengthsAreOfHeads != 0 ? (long)sequence * views.KvHeads + kvHead : sequence;
        return Math.Max(0, Math.Min(views.Lengths[at], views.Positions));
    }

    /// <summary>As many for each split, in whole tiles.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int PositionsOfSplit(KvDecodeAttentionViews views, int length)
    {
        var tiles = Math.Max(1, (length + Tile - 1) / Tile); // one of no positions, so that nobody divides what is negative
        return ((tiles - 1) / views.Splits + 1) * Tile;
    }

    /// <summary>An element of a query, times the scale and log₂ e, so that weights are powers of 2; 0 for a head too many.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float QueryOf(KvDecodeAttentionViews views, Place place, int head, int element) => head < place.Heads
        ? (float)(views.Query[(place.FirstRow + head) * views.HeadDim + element] * views.Factor)
        : 0;

    /// <summary>The products of a tile's keys with all heads, eight sums each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Multiply(KvDecodeAttentionViews views, Space space, long keys, int count)
    {
        for (var i = Group.IdxX; i < count * Lanes; i += Group.DimX)
        {
            var row = keys + (long)(i / Lanes) * views.HeadDim;
            var sum = new Float4();
            for (var element = i % Lanes; element < views.HeadDim; element += Lanes)
                sum = MultiplyAdd(views.Keys[row + element], space.Query[element], sum);
            space.Partial[i] = sum;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float ScoreOf(Space space, int position, int head)
    {
        var score = 0f;
        for (var lane = 0; lane < Lanes; lane++)
        {
            var of = space.Partial[position * Lanes + lane];
            score += head == 0 ? of.X : head == 1 ? of.Y : head == 2 ? of.Z : of.W;
        }

        return score;
    }

    /// <summary>
    /// Scores become weights, beside the greatest score so far. A thread's scores are all of one head, so each finds that by itself. Of a
    /// NaN the weight is NaN.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Running Weigh(Space space, Running running)
    {
        var head = Group.IdxX % Heads;
        var greatest = running.Greatest;
        for (var i = head; i < Tile * Heads; i += Heads)
            greatest = space.Scores[i] > greatest ? space.Scores[i] : greatest;
        var shift = float.IsNegativeInfinity(greatest) ? 0 : greatest;
        for (var i = Group.IdxX; i < Tile * Heads; i += Group.DimX)
            space.Weights[i] = Exp2(space.Scores[i] - shift);
        var shrink = Exp2(running.Greatest - shift);
        if (Group.IdxX < Heads)
            space.Shrink[head] = shrink;
        return new() { Greatest = greatest, Total = KernelMath.Multiply(running.Total, shrink) };
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Running AddWeights(Space space, Running running)
    {
        var ofTile = 0f; // apart from the sum so far, beside which single weights would be rounded away
        for (var i = Group.IdxX % Heads; i < Tile * Heads; i += Heads)
            ofTile += space.Weights[i];
        return new() { Greatest = running.Greatest, Total = running.Total + ofTile };
    }

    /// <summary>Adds a tile's weighted values to the sums, which shrink where a maximum has grown.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Mix(KvDecodeAttentionViews views, Space space, long values, int count)
    {
        for (var column = Group.IdxX; column < views.HeadDim; column += Group.DimX)
        {
            var sum = space.Sums[column];
            sum.X = KernelMath.Multiply(sum.X, space.Shrink[0]);
            sum.Y = KernelMath.Multiply(sum.Y, space.Shrink[1]);
            sum.Z = KernelMath.Multiply(sum.Z, space.Shrink[2]);
            sum.W = KernelMath.Multiply(sum.W, space.Shrink[3]);
            for (var i = 0; i < count; i++)
            {
                var value = views.Values[values + (long)i * views.HeadDim + column];
                var at = i * Heads;
                sum.X = KernelMath.MultiplyAdd(value, space.Weights[at], sum.X);
                sum.Y = KernelMath.MultiplyAdd(value, space.Weights[at + 1], sum.Y);
                sum.Z = KernelMath.MultiplyAdd(value, space.Weights[at + 2], sum.Z);
                sum.W = KernelMath.MultiplyAdd(value, space.Weights[at + 3], sum.W);
            }

            space.Sums[column] = sum;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write(KvDecodeAttentionViews views, Space space, Place place, Running running)
    {
        if (Group.IdxX < Heads)
            space.Totals[Group.IdxX] = running.Total; // not where others may still read what sums shrink by
        Group.Barrier();
        if (views.Splits > 1 && place.Count == 0) // nobody asks for it
            return;
        for (var column = Group.IdxX; column < views.HeadDim; column += Group.DimX)
        {
            var sum = space.Sums[column];
            for (var head = 0; head < place.Heads; head++)
            {
                var value = head == 0 ? sum.X : head == 1 ? sum.Y : head == 2 ? sum.Z : sum.W;
                var row = place.FirstRow + head;
                if (views.Splits > 1)
                    views.Partials[(row * views.Splits + place.Split) * views.HeadDim + column] = value;
                else
                    views.Output[row * views.HeadDim + column] = place.Count == 0 ? 0 : value / space.Totals[head];
            }
        }

        if (views.Splits > 1 && Group.IdxX < place.Heads)
        {
            var part = (place.FirstRow + Group.IdxX) * views.Splits + place.Split;
            views.Maxima[part] = running.Greatest;
            views.Totals[part] = running.Total;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Float4 MultiplyAdd(float a, Float4 b, Float4 c) => new()
    {
        X = KernelMath.MultiplyAdd(a, b.X, c.X), Y = KernelMath.MultiplyAdd(a, b.Y, c.Y), Z = KernelMath.MultiplyAdd(a, b.Z, c.Z),
        W = KernelMath.MultiplyAdd(a, b.W, c.W),
    };

    // KvDecodeAttention.Exp2, one lane of it. What is below −126 may not be raised to a power, −∞ above all.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Exp2(float x)
    {
        const float Shift = 12582912; // 1.5 · 2²³: adding it rounds to whole numbers
        var shifted = x + Shift;
        var r = x - (shifted - Shift);
        var p = KernelMath.MultiplyAdd(1.52527338e-5f, r, 1.54035304e-4f);
        p = KernelMath.MultiplyAdd(p, r, 1.33335581e-3f);
        p = KernelMath.MultiplyAdd(p, r, 9.61812911e-3f);
        p = KernelMath.MultiplyAdd(p, r, 5.55041087e-2f);
        p = KernelMath.MultiplyAdd(p, r, 0.240226507f);
        p = KernelMath.MultiplyAdd(p, r, 0.693147181f);
        p = KernelMath.MultiplyAdd(p, r, 1);
        return x < -126 ? 0 : KernelMath.Multiply(p, Bits.IntAsFloat((Bits.FloatAsInt(shifted) << 23) + 0x3F80_0000));
    }

    private struct Space
    {
        public ArrayView<Float4> Query, Sums, Partial;
        public ArrayView<float> Scores, Weights, Shrink, Totals;
    }

    private struct Place
    {
        public int Split, Heads, Count;
        public long FirstRow, Keys, Values;
    }

    /// <summary>Of the head that a thread's scores are of.</summary>
    private struct Running
    {
        public float Greatest, Total;
    }
}

/// <summary>What the kernels work on. Steps are in elements.</summary>
[StructLayout(LayoutKind.Sequential)]
[ExcludeFromCodeCoverage(Justification = IlgpuBackend.DeviceCode)]
internal struct KvDecodeAttentionViews
{
    public ArrayView<float> Query;
    public ArrayView<float> Keys;
    public ArrayView<float> Values;
    public ArrayView<int> Lengths;
    public ArrayView<float> Output;

    /// <summary>[B, Hq, splits], empty where there is one split.</summary>
    public ArrayView<float> Maxima;

    /// <summary>As <see cref="Maxima"/>.</summary>
    public ArrayView<float> Totals;

    /// <summary>[B, Hq, splits, d].</summary>
    public ArrayView<float> Partials;

    public long KeySequenceStep, KeyHeadStep, ValueSequenceStep, ValueHeadStep;

    /// <summary>s · log₂ e.</summary>
    public double Factor;

    public int QueryHeads, KvHeads, HeadDim;

    /// <summary>Nmax.</summary>
    public int Positions;

    public int Splits;

    public int LengthsAreOfHeads;
}
