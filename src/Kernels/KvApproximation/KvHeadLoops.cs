using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What becomes of one head of one token on its way into the cache, for one vector width and one set of dtypes.</summary>
internal readonly unsafe struct KvHeadLoops
{
    private const int Lanes = 32; // sums of squares, whatever the width

    private readonly delegate*<Head*, float*, void> _transform;
    private readonly delegate*<float*, byte*, long, float, void> _storeKey, _storeValue;
    private readonly double _epsilon;
    private readonly RotaryLayout _layout;

    private KvHeadLoops(SimdWidth width, in KvAppendWork work, delegate*<Head*, float*, void> transform)
    {
        _transform = transform;
        (_epsilon, _layout) = (work.NormEpsilon, work.Rotary?.Layout ?? RotaryLayout.Halves);
        _storeKey = KvQuantise.QuantiserOf(width, work.Cache.Keys.Format);
        _storeValue = KvQuantise.QuantiserOf(width, work.Cache.Values.Format);
    }

    /// <summary>The loops of the greatest width: a row stays in the first-level cache, so instructions are what counts.</summary>
    public static KvHeadLoops Of(in KvAppendWork work) => CpuSimd.ProductWidth switch
    {
        SimdWidth.Bits512 => For<FloatVector16>(work),
        SimdWidth.Bits256 => For<FloatVector8>(work),
        SimdWidth.Bits128 => For<FloatVector4>(work),
        _ => For<FloatVector1>(work),
    };

    /// <summary>Bias, norm and rotation; pairs 0 for none.</summary>
    public void Transform(in KvHeadRows rows, int token, int head, (nint Cosines, nint Sines) turn, int pairs, float* row)
    {
        var work = new Head
        {
            Source = rows.Row(token, head),
            Bias = rows.Bias == null ? null : rows.Bias + (long)head * rows.HeadDim,
            Norm = rows.Norm,
            Epsilon = _epsilon,
            Cosines = (float*)turn.Cosines,
            Sines = (float*)turn.Sines,
            Pairs = pairs,
            Layout = _layout,
            Count = rows.HeadDim,
        };
        _transform(&work, row);
    }

    /// <summary>Stores a head's key; blocks need room, see <see cref="KiviRing"/>.</summary>
    public void StoreKey(float* row, in KvPlane keys, int b, int head, int slot, float* block) =>
        Store(row, keys, b, head, slot, block, _storeKey);

    /// <summary>Stores a head's value.</summary>
    public void StoreValue(float* row, in KvPlane values, int b, int head, int slot) =>
        Store(row, values, b, head, slot, null, _storeValue);

    private static void Store(
        float* row, in KvPlane plane, int b, int head, int slot, float* block, delegate*<float*, byte*, long, float, void> store)
    {
        if (plane.Ring == null)
            store(row, plane.Row(b, head, slot), plane.HeadDim, plane.Scale(head));
        else
            KiviRing.Store(plane, row, b, head, slot, block, store);
    }

    private static KvHeadLoops For<TVector>(in KvAppendWork work) where TVector : struct, IFloatVector<TVector> =>
        work.Keys.Type switch
        {
            DType.Float32 => new((SimdWidth)TVector.Count, work, &Transform<TVector, float>),
            DType.BFloat16 => new((SimdWidth)TVector.Count, work, &Transform<TVector, BFloat16>),
            _ => new((SimdWidth)TVector.Count, work, &Transform<TVector, Half>),
        };

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static void Transform<TVector, T>(Head* head, float* row)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var source = (T*)head->Source;
        var bias = head->Bias;
        var i = 0;
        for (; i <= head->Count - TVector.Count; i += TVector.Count)
        {
            var x = TVector.Load(source + i);
            (bias == null ? x : x + TVector.Load(bias + i)).Store(row + i);
        }

        for (; i < head->Count; i++)
        {
            var x = FloatVector1.Load(source + i);
            (bias == null ? x : x + FloatVector1.Load(bias + i)).Store(row + i);
        }

        if (head->Norm != null)
            Normalise<TVector>(row, head->Norm, head->Epsilon, head->Count);
        if (head->Pairs > 0)
            KeyRerotate.Turn<TVector, float>(row, head->Cosines, head->Sines, head->Pairs, head->Layout);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Normalise<TVector>(float* row, float* weights, double epsilon, int count)
        where TVector : struct, IFloatVector<TVector>
    {
        var sums = stackalloc double[Lanes];
        new Span<double>(sums, Lanes).Clear();
        var i = count / Lanes * Lanes;
        TVector.AddSquares(row, i, sums);
        for (; i < count; i++)
            sums[i % Lanes] += (double)row[i] * row[i];
        var inverse = (float)(1 / Math.Sqrt(Sum(sums) / count + epsilon));
        var inverses = TVector.Broadcast(inverse);
        for (i = 0; i <= count - TVector.Count; i += TVector.Count)
            (TVector.Load(row + i) * inverses * TVector.Load(weights + i)).Store(row + i);
        for (; i < count; i++)
            row[i] = row[i] * inverse * weights[i];
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

    /// <summary>One head of one token.</summary>
    private readonly struct Head
    {
        public required void* Source { get; init; }

        public required float* Bias { get; init; }

        public required float* Norm { get; init; }

        public required double Epsilon { get; init; }

        public required float* Cosines { get; init; }

        public required float* Sines { get; init; }

        public required int Pairs { get; init; }

        public required RotaryLayout Layout { get; init; }

        public required int Count { get; init; }
    }
}
