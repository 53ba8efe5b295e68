using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Sixteen float32 lanes in a <see cref="Vector512"/>.</summary>
internal readonly unsafe partial struct FloatVector16(Vector512<float> lanes) : IFloatVector<FloatVector16>
{
    private readonly Vector512<float> _lanes = lanes;

    public static int Count => Vector512<float>.Count;

    public static FloatVector16 Broadcast(float value) => new(Vector512.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 Load<T>(T* source) where T : unmanaged
    {
        if (typeof(T) == typeof(float))
            return new(Vector512.Load((float*)source));

        var bits = Vector512.WidenLower(Vector256.Load((ushort*)source).ToVector512Unsafe());
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

        var narrow = typeof(T) == typeof(BFloat16) ? RoundedBits(_lanes) >>> 16 : NarrowToHalf(_lanes);
        (Avx512F.IsSupported ? Avx512F.ConvertToVector256UInt16(narrow) : Vector512.Narrow(narrow, narrow).GetLower())
            .Store((ushort*)destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination, ushort* bits) =>
        StoreUpper(destination, _lanes.AsUInt32() + Vector512.WidenLower(Vector256.Load(bits).ToVector512Unsafe()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void AddSquares<T>(T* source, int count, double* sums) where T : unmanaged
    {
        var s0 = Vector512.Load(sums);
        var s1 = Vector512.Load(sums + Vector512<double>.Count);
        var s2 = Vector512.Load(sums + 2 * Vector512<double>.Count);
        var s3 = Vector512.Load(sums + 3 * Vector512<double>.Count);
        for (var at = 0; at < count; at += 32)
        {
            Prefetch.Ahead(source + at, 32 * sizeof(T));
            var (l0, u0) = Vector512.Widen(Load(source + at)._lanes);
            var (l1, u1) = Vector512.Widen(Load(source + at + Count)._lanes);
            s0 += l0 * l0;
            s1 += u0 * u0;
            s2 += l1 * l1;
            s3 += u1 * u1;
        }

        s0.Store(sums);
        s1.Store(sums + Vector512<double>.Count);
        s2.Store(sums + 2 * Vector512<double>.Count);
        s3.Store(sums + 3 * Vector512<double>.Count);
    }

    public static FloatVector16 operator +(FloatVector16 left, FloatVector16 right) => new(left._lanes + right._lanes);

    public static FloatVector16 operator -(FloatVector16 left, FloatVector16 right) => new(left._lanes - right._lanes);

    public static FloatVector16 operator *(FloatVector16 left, FloatVector16 right) => new(left._lanes * right._lanes);

    public static FloatVector16 operator /(FloatVector16 left, FloatVector16 right) => new(left._lanes / right._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 Sqrt(FloatVector16 value) => new(Vector512.Sqrt(value._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 RoundTo<T>(FloatVector16 value) where T : unmanaged =>
        typeof(T) == typeof(float) ? value
        : typeof(T) == typeof(BFloat16) ? new(RoundToBFloat16(value._lanes))
        : new(WidenHalf(NarrowToHalf(value._lanes)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 MultiplyAdd(FloatVector16 a, FloatVector16 b, FloatVector16 c) =>
        new(Vector512.FusedMultiplyAdd(a._lanes, b._lanes, c._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 WhereEqual(FloatVector16 a, FloatVector16 b, FloatVector16 then, FloatVector16 otherwise) =>
        new(Vector512.ConditionalSelect(Vector512.Equals(a._lanes, b._lanes), then._lanes, otherwise._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> RoundToBFloat16(Vector512<float> value) =>
        (RoundedBits(value) & Vector512.Create(0xFFFF_0000u)).AsSingle();

    // As BFloat16's conversion, lane by lane, in the upper sixteen bits.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> RoundedBits(Vector512<float> value)
    {
        var bits = value.AsUInt32();
        var rounded = bits + Vector512.Create(0x7FFFu) + ((bits >>> 16) & Vector512<uint>.One);
        var quiet = Vector512.Create(0x0040_0000u);
        return Vector512.ConditionalSelect(Vector512.Equals(value, value).AsUInt32(), rounded, bits | quiet);
    }

    // As HalfBits.Narrow, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> NarrowToHalf(Vector512<float> value)
    {
        var bits = value.AsUInt32();
        var magnitude = bits & Vector512.Create(0x7FFF_FFFFu);
        var ties = (magnitude >>> 13) & Vector512<uint>.One;
        var normal = (magnitude - Vector512.Create(HalfBits.BiasDifference - 0xFFF) + ties) >>> 13;
        var shifted = (magnitude.AsSingle() + Vector512.Create(HalfBits.SubnormalShift)).AsUInt32();
        var subnormal = shifted - Vector512.Create(HalfBits.SubnormalShiftBits);
        var nan = Vector512.Create(HalfBits.QuietNaN) | ((magnitude >>> 13) & Vector512.Create(0x3FFu));

        var result = Vector512.ConditionalSelect(Vector512.LessThan(magnitude, Vector512.Create(HalfBits.LeastNormal)), subnormal, normal);
        var overflows = Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(HalfBits.Overflow));
        result = Vector512.ConditionalSelect(overflows, Vector512.Create(HalfBits.Infinity), result);
        result = Vector512.ConditionalSelect(Vector512.GreaterThan(magnitude, Vector512.Create(HalfBits.SingleInfinity)), nan, result);
        return result | ((bits >>> 16) & Vector512.Create(0x8000u));
    }

    // binary16: exponent and mantissa move to their places, and a product with 2^112, exact also for subnormals, mends the bias.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> WidenHalf(Vector512<uint> bits)
    {
        var magnitude = (bits & Vector512.Create(0x7FFFu)) << 13;
        var scaled = (magnitude.AsSingle() * Vector512.Create(HalfBits.ExponentShift)).AsUInt32();
        var special =
            Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(HalfBits.Infinity << 13)) & Vector512.Create(HalfBits.SingleInfinity);
        return (scaled | special | ((bits & Vector512.Create(0x8000u)) << 16)).AsSingle();
    }

    // The upper halves of rounded bits; those of a NaN come from the value itself, which rounding may have carried into infinity or zero.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void StoreUpper(BFloat16* destination, Vector512<uint> rounded)
    {
        var quiet = _lanes.AsUInt32() | Vector512.Create(0x00400000u);
        var upper = Vector512.ConditionalSelect(Vector512.Equals(_lanes, _lanes).AsUInt32(), rounded, quiet) >>> 16;
        Vector256.Narrow(upper.GetLower(), upper.GetUpper()).Store((ushort*)destination);
    }
}
