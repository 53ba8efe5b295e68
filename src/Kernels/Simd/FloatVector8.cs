using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Eight float32 lanes in a <see cref="Vector256"/>.</summary>
internal readonly unsafe partial struct FloatVector8(Vector256<float> lanes) : IFloatVector<FloatVector8>
{
    private readonly Vector256<float> _lanes = lanes;

    public static int Count => Vector256<float>.Count;

    public static FloatVector8 Broadcast(float value) => new(Vector256.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 Load<T>(T* source) where T : unmanaged
    {
        if (typeof(T) == typeof(float))
            return new(Vector256.Load((float*)source));

        var bits = Vector256.WidenLower(Vector128.Load((ushort*)source).ToVector256Unsafe());
        return new(typeof(T) == typeof(BFloat16) ? (bits << 16).AsSingle() : WidenHalf(bits));
    }

    public void Store(float* destination) => _lanes.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreAs<T>(T* destination) where T : unmanaged
    {
        if (typeof(T) == typeof(float))
        {
            _lanes.Store((float*)destination);
            return;
        }

        var narrow = typeof(T) == typeof(BFloat16) ? RoundToBFloat16(_lanes).AsUInt32() >>> 16 : NarrowToHalf(_lanes);
        Vector256.Narrow(narrow, narrow).GetLower().Store((ushort*)destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination, ushort* bits) =>
        StoreUpper(destination, _lanes.AsUInt32() + Vector256.WidenLower(Vector128.Load(bits).ToVector256Unsafe()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void AddSquares<T>(T* source, int count, double* sums) where T : unmanaged
    {
        var s0 = Vector256.Load(sums);
        var s1 = Vector256.Load(sums + Vector256<double>.Count);
        var s2 = Vector256.Load(sums + 2 * Vector256<double>.Count);
        var s3 = Vector256.Load(sums + 3 * Vector256<double>.Count);
        var s4 = Vector256.Load(sums + 4 * Vector256<double>.Count);
        var s5 = Vector256.Load(sums + 5 * Vector256<double>.Count);
        var s6 = Vector256.Load(sums + 6 * Vector256<double>.Count);
        var s7 = Vector256.Load(sums + 7 * Vector256<double>.Count);
        for (var at = 0; at < count; at += 32)
        {
            Prefetch.Ahead(source + at, 32 * sizeof(T));
            var (l0, u0) = Vector256.Widen(Load(source + at)._lanes);
            var (l1, u1) = Vector256.Widen(Load(source + at + Count)._lanes);
            var (l2, u2) = Vector256.Widen(Load(source + at + 2 * Count)._lanes);
            var (l3, u3) = Vector256.Widen(Load(source + at + 3 * Count)._lanes);
            s0 += l0 * l0;
            s1 += u0 * u0;
            s2 += l1 * l1;
            s3 += u1 * u1;
            s4 += l2 * l2;
            s5 += u2 * u2;
            s6 += l3 * l3;
            s7 += u3 * u3;
        }

        s0.Store(sums);
        s1.Store(sums + Vector256<double>.Count);
        s2.Store(sums + 2 * Vector256<double>.Count);
        s3.Store(sums + 3 * Vector256<double>.Count);
        s4.Store(sums + 4 * Vector256<double>.Count);
        s5.Store(sums + 5 * Vector256<double>.Count);
        s6.Store(sums + 6 * Vector256<double>.Count);
        s7.Store(sums + 7 * Vector256<double>.Count);
    }

    public static FloatVector8 operator +(FloatVector8 left, FloatVector8 right) => new(left._lanes + right._lanes);

    public static FloatVector8 operator -(FloatVector8 left, FloatVector8 right) => new(left._lanes - right._lanes);

    public static FloatVector8 operator *(FloatVector8 left, FloatVector8 right) => new(left._lanes * right._lanes);

    public static FloatVector8 operator /(FloatVector8 left, FloatVector8 right) => new(left._lanes / right._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 Sqrt(FloatVector8 value) => new(Vector256.Sqrt(value._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 RoundTo<T>(FloatVector8 value) where T : unmanaged =>
        typeof(T) == typeof(float) ? value
        : typeof(T) == typeof(BFloat16) ? new(RoundToBFloat16(value._lanes))
        : new(WidenHalf(NarrowToHalf(value._lanes)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 MultiplyAdd(FloatVector8 a, FloatVector8 b, FloatVector8 c) =>
        new(Vector256.FusedMultiplyAdd(a._lanes, b._lanes, c._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 WhereEqual(FloatVector8 a, FloatVector8 b, FloatVector8 then, FloatVector8 otherwise) =>
        new(Vector256.ConditionalSelect(Vector256.Equals(a._lanes, b._lanes), then._lanes, otherwise._lanes));

    // As BFloat16's conversion, lane by lane; the lower sixteen bits become 0.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> RoundToBFloat16(Vector256<float> value)
    {
        var bits = value.AsUInt32();
        var rounded = bits + Vector256.Create(0x7FFFu) + ((bits >>> 16) & Vector256<uint>.One);
        var quiet = Vector256.Create(0x0040_0000u);
        var kept = Vector256.ConditionalSelect(Vector256.Equals(value, value).AsUInt32(), rounded, bits | quiet);
        return (kept & Vector256.Create(0xFFFF_0000u)).AsSingle();
    }

    // As HalfBits.Narrow, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> NarrowToHalf(Vector256<float> value)
    {
        var bits = value.AsUInt32();
        var magnitude = bits & Vector256.Create(0x7FFF_FFFFu);
        var ties = (magnitude >>> 13) & Vector256<uint>.One;
        var normal = (magnitude - Vector256.Create(HalfBits.BiasDifference - 0xFFF) + ties) >>> 13;
        var shifted = (magnitude.AsSingle() + Vector256.Create(HalfBits.SubnormalShift)).AsUInt32();
        var subnormal = shifted - Vector256.Create(HalfBits.SubnormalShiftBits);
        var nan = Vector256.Create(HalfBits.QuietNaN) | ((magnitude >>> 13) & Vector256.Create(0x3FFu));

        var result = Vector256.ConditionalSelect(Vector256.LessThan(magnitude, Vector256.Create(HalfBits.LeastNormal)), subnormal, normal);
        var overflows = Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(HalfBits.Overflow));
        result = Vector256.ConditionalSelect(overflows, Vector256.Create(HalfBits.Infinity), result);
        result = Vector256.ConditionalSelect(Vector256.GreaterThan(magnitude, Vector256.Create(HalfBits.SingleInfinity)), nan, result);
        return result | ((bits >>> 16) & Vector256.Create(0x8000u));
    }

    // binary16: exponent and mantissa move to their places, and a product with 2^112, exact also for subnormals, mends the bias.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> WidenHalf(Vector256<uint> bits)
    {
        var magnitude = (bits & Vector256.Create(0x7FFFu)) << 13;
        var scaled = (magnitude.AsSingle() * Vector256.Create(HalfBits.ExponentShift)).AsUInt32();
        var special =
            Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(HalfBits.Infinity << 13)) & Vector256.Create(HalfBits.SingleInfinity);
        return (scaled | special | ((bits & Vector256.Create(0x8000u)) << 16)).AsSingle();
    }

    // The upper halves of rounded bits; those of a NaN come from the value itself, which rounding may have carried into infinity or zero.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void StoreUpper(BFloat16* destination, Vector256<uint> rounded)
    {
        var quiet = _lanes.AsUInt32() | Vector256.Create(0x00400000u);
        var upper = Vector256.ConditionalSelect(Vector256.Equals(_lanes, _lanes).AsUInt32(), rounded, quiet) >>> 16;
        Vector128.Narrow(upper.GetLower(), upper.GetUpper()).Store((ushort*)destination);
    }
}
