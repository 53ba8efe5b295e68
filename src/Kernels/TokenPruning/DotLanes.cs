using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

/// <summary>
/// Dot products that are summed in 32 lanes: element k to lane k mod 32, then lane l and l + 16, + 8, + 4, + 2, + 1. That order is the same
/// at every vector width, and so are the bits.
/// </summary>
internal static unsafe class DotLanes
{
    private const int Lanes = 32;

    /// <summary>Elements that a query takes, with zeros behind it.</summary>
    public static int Padded(int depth) => (depth + Lanes - 1) / Lanes * Lanes;

    /// <summary>A query times a scale, and zeros.</summary>
    public static void Scaled<T>(T* query, int depth, float scale, float* destination) where T : unmanaged
    {
        for (var k = 0; k < depth; k++)
            (FloatVector1.Load(query + k) * FloatVector1.Broadcast(scale)).Store(destination + k);
        new Span<float>(destination + depth, Padded(depth) - depth).Clear();
    }

    /// <summary>Products of some queries with all keys: logits[r, j].</summary>
    /// <param name="keys">Rows of <paramref name="depth"/> elements.</param>
    /// <param name="step">Elements from one key to the next.</param>
    /// <param name="tokens">How many keys there are.</param>
    /// <param name="depth">Elements of a key.</param>
    /// <param name="queries">[rows, Padded(depth)].</param>
    /// <param name="rows">How many queries there are.</param>
    /// <param name="logits">[rows, tokens], written.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    public static void Run<TVector, T>(T* keys, long step, int tokens, int depth, float* queries, int rows, float* logits)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var whole = depth / Lanes * Lanes;
        var padded = Padded(depth);
        var tail = stackalloc T[Lanes];
        new Span<T>(tail, Lanes).Clear();
        var lanes = stackalloc float[Lanes];
        for (var token = 0; token < tokens; token++)
        {
            var key = keys + token * step;
            Prefetch.Ahead(key, 256);
            if (whole < depth)
                Unsafe.CopyBlockUnaligned(tail, key + whole, (uint)((depth - whole) * sizeof(T)));
            for (var row = 0; row < rows; row++)
            {
                Products<TVector, T>(queries + (long)row * padded, key, whole, tail, whole < depth, lanes);
                logits[(long)row * tokens + token] = Fold(lanes);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Products<TVector, T>(float* query, T* key, int whole, T* tail, bool hasTail, float* lanes)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        if (TVector.Count == 8)
        {
            var zero = TVector.Broadcast(0);
            TVector a = zero, b = zero, c = zero, d = zero;
            for (var k = 0; k < whole; k += Lanes)
            {
                a = TVector.MultiplyAdd(TVector.Load(query + k), TVector.Load(key + k), a);
                b = TVector.MultiplyAdd(TVector.Load(query + k + 8), TVector.Load(key + k + 8), b);
                c = TVector.MultiplyAdd(TVector.Load(query + k + 16), TVector.Load(key + k + 16), c);
                d = TVector.MultiplyAdd(TVector.Load(query + k + 24), TVector.Load(key + k + 24), d);
            }

            if (hasTail)
            {
                a = TVector.MultiplyAdd(TVector.Load(query + whole), TVector.Load(tail), a);
                b = TVector.MultiplyAdd(TVector.Load(query + whole + 8), TVector.Load(tail + 8), b);
                c = TVector.MultiplyAdd(TVector.Load(query + whole + 16), TVector.Load(tail + 16), c);
                d = TVector.MultiplyAdd(TVector.Load(query + whole + 24), TVector.Load(tail + 24), d);
            }

            a.Store(lanes);
            b.Store(lanes + 8);
            c.Store(lanes + 16);
            d.Store(lanes + 24);
            return;
        }

        for (var lane = 0; lane < Lanes; lane += TVector.Count)
        {
            var sum = TVector.Broadcast(0);
            for (var k = lane; k < whole; k += Lanes)
                sum = TVector.MultiplyAdd(TVector.Load(query + k), TVector.Load(key + k), sum);
            if (hasTail)
                sum = TVector.MultiplyAdd(TVector.Load(query + whole + lane), TVector.Load(tail + lane), sum);
            sum.Store(lanes + lane);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Fold(float* lanes)
    {
        var eight = Vector256.Load(lanes) + Vector256.Load(lanes + 16) + (Vector256.Load(lanes + 8) + Vector256.Load(lanes + 24));
        var four = eight.GetLower() + eight.GetUpper();
        var two = four + Vector128.Shuffle(four, Vector128.Create(2, 3, 0, 1));
        return two.ToScalar() + two.GetElement(1);
    }
}

/// <summary>
/// Sums of exponentials, always in vectors of the same width (emulated where there are none), so that their bits are the same everywhere.
/// </summary>
internal static unsafe class ExpSums
{
    /// <summary>sums[j] += weight · exp(logits[j] − logSumExp).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Add(float* logits, int count, float logSumExp, float weight, float* sums)
    {
        var (shift, weights) = (Vector256.Create(logSumExp), Vector256.Create(weight));
        var j = 0;
        for (; j <= count - Vector256<float>.Count; j += Vector256<float>.Count)
        {
            var share = Vector256.Exp(Vector256.Load(logits + j) - shift);
            (Vector256.Load(sums + j) + share * weights).Store(sums + j);
        }

        for (; j < count; j++)
            sums[j] += Exp(logits[j] - logSumExp) * weight;
    }

    /// <summary>
    /// The same where the logarithm of the sum is not known: sums[j] += weight · softmax(logits)[j]. Logits are overwritten.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void AddNormalised(float* logits, int count, float weight, float* sums)
    {
        var total = Exponentials(logits, count, Largest(logits, count));
        var factor = (float)(weight / total);
        var (factors, j) = (Vector256.Create(factor), 0);
        for (; j <= count - Vector256<float>.Count; j += Vector256<float>.Count)
            (Vector256.Load(sums + j) + Vector256.Load(logits + j) * factors).Store(sums + j);
        for (; j < count; j++)
            sums[j] += logits[j] * factor;
    }

    /// <summary>The largest of some numbers; NaN where one is; −∞ of none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Largest(float* values, int count)
    {
        var (largest, most, j) = (float.NegativeInfinity, Vector256.Create(float.NegativeInfinity), 0);
        for (; j <= count - Vector256<float>.Count; j += Vector256<float>.Count)
            most = Vector256.Max(most, Vector256.Load(values + j));
        for (var lane = 0; lane < Vector256<float>.Count; lane++)
            largest = MathF.Max(largest, most[lane]);
        for (; j < count; j++)
            largest = MathF.Max(largest, values[j]);
        return largest;
    }

    /// <summary>Turns x into exp(x − shift), and sums it up in double.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static double Exponentials(float* values, int count, float shift)
    {
        var (shifts, lower, upper, j) = (Vector256.Create(shift), Vector256<double>.Zero, Vector256<double>.Zero, 0);
        for (; j <= count - Vector256<float>.Count; j += Vector256<float>.Count)
        {
            var exponentials = Vector256.Exp(Vector256.Load(values + j) - shifts);
            exponentials.Store(values + j);
            var (first, second) = Vector256.Widen(exponentials);
            lower += first;
            upper += second;
        }

        var both = lower + upper;
        var total = both[0] + both[1] + (both[2] + both[3]);
        for (; j < count; j++)
            total += values[j] = Exp(values[j] - shift);
        return total;
    }

    // As the lanes do it.
    private static float Exp(float value) => Vector256.Exp(Vector256.CreateScalar(value)).ToScalar();
}
