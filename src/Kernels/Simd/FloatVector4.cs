using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Four float32 lanes in a <see cref="Vector128"/>.</summary>
internal readonly unsafe partial struct FloatVector4(Vector128<float> lanes) : IFloatVector<FloatVector4>
{
    private readonly Vector128<float> _lanes = lanes;

    public static int Count => Vector128<float>.Count;

    public static FloatVector4 Broadcast(float value) => new(Vector128.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 Load<T>(T* source) where T : unmanaged
    {
        if (typeof(T) == typeof(float))
            return new(Vector128.Load((float*)source));

        var bits = Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)source).AsUInt16());
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
        *(ulong*)destination = Vector128.Narrow(narrow, narrow).AsUInt64().ToScalar();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination, ushort* bits) =>
        StoreUpper(destination, _lanes.AsUInt32() + Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)bits).AsUInt16()));

    // Half of the sums at a time: so many fit into the registers.
    public static void AddSquares<T>(T* source, int count, double* sums) where T : unmanaged
    {
        AddSquaresOfHalf(source, count, sums);
        AddSquaresOfHalf(source + 16, count, sums + 16);
    }

    private static void AddSquaresOfHalf<T>(T* source, int count, double* sums) where T : unmanaged
    {
        var s0 = Vector128.Load(sums);
        var s1 = Vector128.Load(sums + Vector128<double>.Count);
        var s2 = Vector128.Load(sums + 2 * Vector128<double>.Count);
        var s3 = Vector128.Load(sums + 3 * Vector128<double>.Count);
        var s4 = Vector128.Load(sums + 4 * Vector128<double>.Count);
        var s5 = Vector128.Load(sums + 5 * Vector128<double>.Count);
        var s6 = Vector128.Load(sums + 6 * Vector128<double>.Count);
        var s7 = Vector128.Load(sums + 7 * Vector128<double>.Count);
        for (var at = 0; at < count; at += 32)
        {
            Prefetch.Ahead(source + at, 16 * sizeof(T));
            var (l0, u0) = Vector128.Widen(Load(source + at)._lanes);
            var (l1, u1) = Vector128.Widen(Load(source + at + Count)._lanes);
            var (l2, u2) = Vector128.Widen(Load(source + at + 2 * Count)._lanes);
            var (l3, u3) = Vector128.Widen(Load(source + at + 3 * Count)._lanes);
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
        s1.Store(sums + Vector128<double>.Count);
        s2.Store(sums + 2 * Vector128<double>.Count);
        s3.Store(sums + 3 * Vector128<double>.Count);
        s4.Store(sums + 4 * Vector128<double>.Count);
        s5.Store(sums + 5 * Vector128<double>.Count);
        s6.Store(sums + 6 * Vector128<double>.Count);
        s7.Store(sums + 7 * Vector128<double>.Count);
    }

    public static FloatVector4 operator +(FloatVector4 left, FloatVector4 right) => new(left._lanes + right._lanes);

    public static FloatVector4 operator -(FloatVector4 left, FloatVector4 right) => new(left._lanes - right._lanes);

    public static FloatVector4 operator *(FloatVector4 left, FloatVector4 right) => new(left._lanes * right._lanes);

    public static FloatVector4 operator /(FloatVector4 left, FloatVector4 right) => new(left._lanes / right._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 Sqrt(FloatVector4 value) => new(Vector128.Sqrt(value._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 RoundTo<T>(FloatVector4 value) where T : unmanaged =>
        typeof(T) == typeof(float) ? value
        : typeof(T) == typeof(BFloat16) ? new(RoundToBFloat16(value._lanes))
        : new(WidenHalf(NarrowToHalf(value._lanes)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 MultiplyAdd(FloatVector4 a, FloatVector4 b, FloatVector4 c) =>
        new(Vector128.FusedMultiplyAdd(a._lanes, b._lanes, c._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 WhereEqual(FloatVector4 a, FloatVector4 b, FloatVector4 then, FloatVector4 otherwise) =>
        new(Vector128.ConditionalSelect(Vector128.Equals(a._lanes, b._lanes), then._lanes, otherwise._lanes));

    // As BFloat16's conversion, lane by lane; the lower sixteen bits become 0.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> RoundToBFloat16(Vector128<float> value)
    {
        var bits = value.AsUInt32();
        var rounded = bits + Vector128.Create(0x7FFFu) + ((bits >>> 16) & Vector128<uint>.One);
        var quiet = Vector128.Create(0x0040_0000u);
        var kept = Vector128.ConditionalSelect(Vector128.Equals(value, value).AsUInt32(), rounded, bits | quiet);
        return (kept & Vector128.Create(0xFFFF_0000u)).AsSingle();
    }

    // As HalfBits.Narrow, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<uint> NarrowToHalf(Vector128<float> value)
    {
        var bits = value.AsUInt32();
        var magnitude = bits & Vector128.Create(0x7FFF_FFFFu);
        var ties = (magnitude >>> 13) & Vector128<uint>.One;
        var normal = (magnitude - Vector128.Create(HalfBits.BiasDifference - 0xFFF) + ties) >>> 13;
        var shifted = (magnitude.AsSingle() + Vector128.Create(HalfBits.SubnormalShift)).AsUInt32();
        var subnormal = shifted - Vector128.Create(HalfBits.SubnormalShiftBits);
        var nan = Vector128.Create(HalfBits.QuietNaN) | ((magnitude >>> 13) & Vector128.Create(0x3FFu));

        var result = Vector128.ConditionalSelect(Vector128.LessThan(magnitude, Vector128.Create(HalfBits.LeastNormal)), subnormal, normal);
        var overflows = Vector128.GreaterThanOrEqual(magnitude, Vector128.Create(HalfBits.Overflow));
        result = Vector128.ConditionalSelect(overflows, Vector128.Create(HalfBits.Infinity), result);
        result = Vector128.ConditionalSelect(Vector128.GreaterThan(magnitude, Vector128.Create(HalfBits.SingleInfinity)), nan, result);
        return result | ((bits >>> 16) & Vector128.Create(0x8000u));
    }

    // binary16: exponent and mantissa move to their places, and a product with 2^112, exact also for subnormals, mends the bias.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> WidenHalf(Vector128<uint> bits)
    {
        var magnitude = (bits & Vector128.Create(0x7FFFu)) << 13;
        var scaled = (magnitude.AsSingle() * Vector128.Create(HalfBits.ExponentShift)).AsUInt32();
        var special =
            Vector128.GreaterThanOrEqual(magnitude, Vector128.Create(HalfBits.Infinity << 13)) & Vector128.Create(HalfBits.SingleInfinity);
        return (scaled | special | ((bits & Vector128.Create(0x8000u)) << 16)).AsSingle();
    }

    // The upper halves of rounded bits; those of a NaN come from the value itself, which rounding may have carried into infinity or zero.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void StoreUpper(BFloat16* destination, Vector128<uint> rounded)
    {
        var quiet = _lanes.AsUInt32() | Vector128.Create(0x00400000u);
        var upper = Vector128.ConditionalSelect(Vector128.Equals(_lanes, _lanes).AsUInt32(), rounded, quiet) >>> 16;
        *(ulong*)destination = Vector128.Narrow(upper, upper).AsUInt64().ToScalar();
    }
}
