using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// What becomes of the heads of a token on their way into the cache, for one vector width and one set of dtypes and formats: bias, norm,
/// rotation and format, row by row, while the row is in the first-level cache.
/// </summary>
internal readonly unsafe struct KvHeadLoops
{
    private const int Lanes = 32; // sums of squares, whatever the width
    private const int Block = 32; // elements that a format takes at a time

    private readonly delegate*<Heads*, void> _rotate, _storeKeys, _storeValues;
    private readonly delegate*<float*, byte*, long, float, void> _quantiseKeys, _quantiseValues; // what leaves a ring
    private readonly double _epsilon;
    private readonly RotaryLayout _layout;
    private readonly int _pairs;

    private KvHeadLoops(
        SimdWidth width, in KvAppendWork work, delegate*<Heads*, void> rotate, delegate*<Heads*, void> storeKeys,
        delegate*<Heads*, void> storeValues)
    {
        _rotate = rotate;
        _storeKeys = storeKeys;
        _storeValues = storeValues;
        (_epsilon, _layout, _pairs) = (work.NormEpsilon, work.Rotary?.Layout ?? RotaryLayout.Halves, work.RotatedElements / 2);
        _quantiseKeys = KvQuantise.QuantiserOf(width, work.Cache.Keys.Format);
        _quantiseValues = KvQuantise.QuantiserOf(width, work.Cache.Values.Format);
    }

    /// <summary>The loops of the greatest width: a row stays in the first-level cache, so instructions are what counts.</summary>
    public static KvHeadLoops Of(in KvAppendWork work) => CpuSimd.ProductWidth switch
    {
        SimdWidth.Bits512 => For<FloatVector16>(work),
        SimdWidth.Bits256 => For<FloatVector8>(work),
        SimdWidth.Bits128 => For<FloatVector4>(work),
        _ => For<FloatVector1>(work),
    };

    /// <summary>How many floats a call works in: rows and their norms, or a row and a block of a ring.</summary>
    public static long RoomFor(in KvAppendWork work) =>
        Math.Max(Math.Max(work.Query.Heads, work.KvHeads) * (work.HeadDim + 1L), (1L + KiviGroup.Elements) * (work.HeadDim + 1L));

    /// <summary>Rotates query heads.</summary>
    public void Rotate(
        in KvHeadRows rows, int token, (int From, int To) some, (nint Cosines, nint Sines) turn, float* rotated, float* room)
    {
        var heads = HeadsOf(rows, token, some, turn, room);
        heads.Destination = (byte*)(rotated + (long)some.From * rows.HeadDim);
        heads.DestinationStep = (long)rows.HeadDim * sizeof(float);
        _rotate(&heads);
    }

    /// <summary>Stores the keys of some heads.</summary>
    public void StoreKeys(
        in KvHeadRows rows, in KvPlane keys, in KvPlaces places, int token, (int From, int To) some, (nint Cosines, nint Sines) turn,
        float* room)
    {
        var heads = HeadsOf(rows, token, some, turn, room);
        Store(&heads, keys, places, token, some, _storeKeys, _quantiseKeys);
    }

    /// <summary>Stores the values of some heads.</summary>
    public void StoreValues(
        in KvHeadRows rows, in KvPlane values, in KvPlaces places, int token, (int From, int To) some, float* room)
    {
        var heads = HeadsOf(rows, token, some, default, room);
        Store(&heads, values, places, token, some, _storeValues, _quantiseValues);
    }

    private Heads HeadsOf(in KvHeadRows rows, int token, (int From, int To) some, (nint Cosines, nint Sines) turn, float* room) => new()
    {
        Source = (byte*)rows.Row(token, some.From),
        SourceStep = (long)rows.HeadDim * rows.Type.Size(),
        TokenStep = rows.TokenStep,
        Bias = rows.Bias == null ? null : rows.Bias + (long)some.From * rows.HeadDim,
        Norm = rows.Norm,
        Epsilon = _epsilon,
        Cosines = (float*)turn.Cosines,
        Sines = (float*)turn.Sines,
        Pairs = turn.Cosines == 0 ? 0 : _pairs,
        Layout = _layout,
        HeadDim = rows.HeadDim,
        Count = some.To - some.From,
        Rows = room,
    };

    // All heads at once where they are in one place, as far apart as the plane's; else one by one.
    private static void Store(
        Heads* heads, in KvPlane plane, in KvPlaces places, int token, (int From, int To) some, delegate*<Heads*, void> store,
        delegate*<float*, byte*, long, float, void> quantise)
    {
        var b = places.Sequence(token);
        heads->ScaleStep = plane.ScaleCount > 1 ? 1 : 0;
        heads->Scale = plane.ScaleCount == 0 ? null : plane.Scales + some.From * heads->ScaleStep;
        if (plane.Ring == null && places.SlotsOfToken == 1 && !plane.PagesAreOfHeads)
        {
            heads->Destination = plane.Row(b, some.From, places.Slot(token, some.From));
            heads->DestinationStep = plane.HeadStep;
            store(heads);
            return;
        }

        heads->Count = 1;
        for (var head = some.From; head < some.To; head++)
        {
            var slot = places.Slot(token, head);
            heads->Destination = plane.Ring == null ? plane.Row(b, head, slot) : (byte*)heads->Rows;
            store(heads);
            if (plane.Ring != null)
                KiviRing.Store(plane, heads->Rows, b, head, slot, heads->Rows + heads->HeadDim, quantise);
            heads->Source += heads->SourceStep;
            heads->Bias = heads->Bias == null ? null : heads->Bias + heads->HeadDim;
            heads->Scale += heads->ScaleStep;
        }
    }

    private static KvHeadLoops For<TVector>(in KvAppendWork work) where TVector : struct, IFloatVector<TVector> =>
        work.Keys.Type switch
        {
            DType.Float32 => For<TVector, float>(work),
            DType.BFloat16 => For<TVector, BFloat16>(work),
            _ => For<TVector, Half>(work),
        };

    private static KvHeadLoops For<TVector, T>(in KvAppendWork work)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged =>
        new(
            (SimdWidth)TVector.Count, work, Loop<TVector, T>(KvFormat.F32), Loop<TVector, T>(Stored(work.Cache.Keys)),
            Loop<TVector, T>(Stored(work.Cache.Values)));

    // A ring keeps floats.
    private static KvFormat Stored(in KvPlane plane) => plane.Ring == null ? plane.Format : KvFormat.F32;

    private static delegate*<Heads*, void> Loop<TVector, T>(KvFormat format)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged =>
        format switch
        {
            KvFormat.F32 => &Run<TVector, T, KvQuantise.Elements<float>>,
            KvFormat.F16 => &Run<TVector, T, KvQuantise.Elements<Half>>,
            KvFormat.BF16 => &Run<TVector, T, KvQuantise.Elements<BFloat16>>,
            KvFormat.Fp8E4M3 => &Run<TVector, T, KvQuantise.E4M3Elements>,
            KvFormat.Q8_0 => &Run<TVector, T, KvQuantise.Q8Groups>,
            _ => &Run<TVector, T, KvQuantise.Q4Groups>, // KIVI's rows have a ring
        };

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static void Run<TVector, T, TCodec>(Heads* heads)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
        where TCodec : struct, KvQuantise.ICodec
    {
        // First what waits longest, the norms, of all heads: roots and quotients of one overlap those of the next.
        var count = heads->HeadDim;
        var inverses = heads->Rows + (long)heads->Count * count;
        var sums = stackalloc double[Lanes];
        var row = heads->Rows;
        var source = heads->Source;
        var bias = heads->Bias;
        for (var head = 0; head < heads->Count; head++, row += count, source += heads->SourceStep)
        {
            Prefetch.Row(source + heads->TokenStep, heads->SourceStep);
            Load<TVector, T>((T*)source, bias, row, count);
            inverses[head] = heads->Norm == null ? 1 : InverseNorm<TVector>(row, heads->Epsilon, count, sums);
            bias = bias == null ? null : bias + count;
        }

        row = heads->Rows;
        var destination = heads->Destination;
        var bytes = count / Block * TCodec.BlockBytes;
        var scale = heads->Scale;
        for (var head = 0; head < heads->Count; head++, row += count, destination += heads->DestinationStep)
        {
            Prefetch.Row(destination + bytes, bytes); // the next token's place
            if (heads->Norm != null)
                Multiply<TVector>(row, inverses[head], heads->Norm, count);
            if (heads->Pairs > 0)
                Turn<TVector>(row, heads->Cosines, heads->Sines, heads->Pairs, heads->Layout);
            var i = 0;
            var to = destination;
            var factor = scale == null ? 1 : *scale;
            for (; i <= count - Block; i += Block, to += TCodec.BlockBytes)
                TCodec.Quantise<TVector>(row + i, to, Block, factor);
            TCodec.Quantise<FloatVector1>(row + i, to, count - i, factor);
            scale += heads->ScaleStep;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Load<TVector, T>(T* source, float* bias, float* row, int count)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var i = 0;
        for (; i <= count - TVector.Count; i += TVector.Count)
        {
            var x = TVector.Load(source + i);
            (bias == null ? x : x + TVector.Load(bias + i)).Store(row + i);
        }

        for (; i < count; i++)
        {
            var x = FloatVector1.Load(source + i);
            (bias == null ? x : x + FloatVector1.Load(bias + i)).Store(row + i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float InverseNorm<TVector>(float* row, double epsilon, int count, double* sums)
        where TVector : struct, IFloatVector<TVector>
    {
        new Span<double>(sums, Lanes).Clear();
        var i = count / Lanes * Lanes;
        TVector.AddSquares(row, i, sums);
        for (; i < count; i++)
            sums[i % Lanes] += (double)row[i] * row[i];
        return (float)(1 / Math.Sqrt(Sum(sums) / count + epsilon));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Multiply<TVector>(float* row, float inverse, float* weights, int count)
        where TVector : struct, IFloatVector<TVector>
    {
        var inverses = TVector.Broadcast(inverse);
        var i = 0;
        for (; i <= count - TVector.Count; i += TVector.Count)
            (TVector.Load(row + i) * inverses * TVector.Load(weights + i)).Store(row + i);
        for (; i < count; i++)
            row[i] = row[i] * inverse * weights[i];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Turn<TVector>(float* row, float* cosines, float* sines, int pairs, RotaryLayout layout)
        where TVector : struct, IFloatVector<TVector>
    {
        var pair = 0;
        if (layout == RotaryLayout.Halves)
        {
            for (; pair <= pairs - TVector.Count; pair += TVector.Count)
                KeyRerotate.Turn<TVector, float>(row + pair, row + pairs + pair, cosines + pair, sines + pair);
        }

        for (; pair < pairs; pair++)
        {
            var (first, second) = layout == RotaryLayout.Halves ? (pair, pairs + pair) : (2 * pair, 2 * pair + 1);
            KeyRerotate.Turn<FloatVector1, float>(row + first, row + second, cosines + pair, sines + pair);
        }
    }

    /// <summary>Lanes i and i + 16 first, then i and i + 8, and so on: an order of its own, whatever the width.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static double Sum(double* lanes)
    {
        const int Four = 4;
        var first = Vector256.Load(lanes) + Vector256.Load(lanes + 4 * Four);
        var second = Vector256.Load(lanes + Four) + Vector256.Load(lanes + 5 * Four);
        var third = Vector256.Load(lanes + 2 * Four) + Vector256.Load(lanes + 6 * Four);
        var fourth = Vector256.Load(lanes + 3 * Four) + Vector256.Load(lanes + 7 * Four);
        var all = first + third + (second + fourth);
        var two = all.GetLower() + all.GetUpper();
        return two[0] + two[1];
    }

    /// <summary>Heads of one token that follow each other. Steps are in bytes.</summary>
    private struct Heads
    {
        public byte* Source { get; set; }

        public required long SourceStep { get; init; }

        /// <summary>To the token that is likely to be next.</summary>
        public required long TokenStep { get; init; }

        /// <summary>[count, d]; null for none.</summary>
        public float* Bias { get; set; }

        /// <summary>[d]; null for none.</summary>
        public required float* Norm { get; init; }

        public required double Epsilon { get; init; }

        public required float* Cosines { get; init; }

        public required float* Sines { get; init; }

        /// <summary>0 where nothing is rotated.</summary>
        public required int Pairs { get; init; }

        public required RotaryLayout Layout { get; init; }

        public required int HeadDim { get; init; }

        public int Count { get; set; }

        public byte* Destination { get; set; }

        public long DestinationStep { get; set; }

        /// <summary>Null for 1.</summary>
        public float* Scale { get; set; }

        /// <summary>Elements from the scale of a head to that of the next.</summary>
        public int ScaleStep { get; set; }

        /// <summary>[count, d], and [count] behind them, to work in.</summary>
        public required float* Rows { get; init; }
    }
}
