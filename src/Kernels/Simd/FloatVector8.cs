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
        if (typeof(T) == typeof(BFloat16))
            return new((bits << 16).AsSingle());

        // binary16: exponent and mantissa move to their places, and a product with 2^112, exact also for subnormals, mends the bias.
        var magnitude = (bits & Vector256.Create(0x7FFFu)) << 13;
        var scaled = (magnitude.AsSingle() * Vector256.Create(HalfBits.ExponentShift)).AsUInt32();
        var special =
            Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(HalfBits.Infinity << 13)) & Vector256.Create(HalfBits.SingleInfinity);
        return new((scaled | special | ((bits & Vector256.Create(0x8000u)) << 16)).AsSingle());
    }

    public void Store(float* destination) => _lanes.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination)
    {
        var bits = _lanes.AsUInt32();
        StoreUpper(destination, bits + Vector256.Create(0x7FFFu) + ((bits >>> 16) & Vector256<uint>.One));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination, ushort* bits) =>
        StoreUpper(destination, _lanes.AsUInt32() + Vector256.WidenLower(Vector128.Load(bits).ToVector256Unsafe()));

    public static FloatVector8 operator -(FloatVector8 left, FloatVector8 right) => new(left._lanes - right._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 MultiplyAdd(FloatVector8 a, FloatVector8 b, FloatVector8 c) =>
        new(Vector256.FusedMultiplyAdd(a._lanes, b._lanes, c._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 WhereEqual(FloatVector8 a, FloatVector8 b, FloatVector8 then, FloatVector8 otherwise) =>
        new(Vector256.ConditionalSelect(Vector256.Equals(a._lanes, b._lanes), then._lanes, otherwise._lanes));

    // The upper halves of rounded bits; those of a NaN come from the value itself, which rounding may have carried into infinity or zero.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void StoreUpper(BFloat16* destination, Vector256<uint> rounded)
    {
        var quiet = _lanes.AsUInt32() | Vector256.Create(0x00400000u);
        var upper = Vector256.ConditionalSelect(Vector256.Equals(_lanes, _lanes).AsUInt32(), rounded, quiet) >>> 16;
        Vector128.Narrow(upper.GetLower(), upper.GetUpper()).Store((ushort*)destination);
    }
}
