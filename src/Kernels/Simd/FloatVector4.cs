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
        if (typeof(T) == typeof(BFloat16))
            return new((bits << 16).AsSingle());

        // binary16: exponent and mantissa move to their places, and a product with 2^112, exact also for subnormals, mends the bias.
        var magnitude = (bits & Vector128.Create(0x7FFFu)) << 13;
        var scaled = (magnitude.AsSingle() * Vector128.Create(HalfBits.ExponentShift)).AsUInt32();
        var special =
            Vector128.GreaterThanOrEqual(magnitude, Vector128.Create(HalfBits.Infinity << 13)) & Vector128.Create(HalfBits.SingleInfinity);
        return new((scaled | special | ((bits & Vector128.Create(0x8000u)) << 16)).AsSingle());
    }

    public void Store(float* destination) => _lanes.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination)
    {
        var bits = _lanes.AsUInt32();
        StoreUpper(destination, bits + Vector128.Create(0x7FFFu) + ((bits >>> 16) & Vector128<uint>.One));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination, ushort* bits) =>
        StoreUpper(destination, _lanes.AsUInt32() + Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)bits).AsUInt16()));

    public static FloatVector4 operator -(FloatVector4 left, FloatVector4 right) => new(left._lanes - right._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 MultiplyAdd(FloatVector4 a, FloatVector4 b, FloatVector4 c) =>
        new(Vector128.FusedMultiplyAdd(a._lanes, b._lanes, c._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 WhereEqual(FloatVector4 a, FloatVector4 b, FloatVector4 then, FloatVector4 otherwise) =>
        new(Vector128.ConditionalSelect(Vector128.Equals(a._lanes, b._lanes), then._lanes, otherwise._lanes));

    // The upper halves of rounded bits; those of a NaN come from the value itself, which rounding may have carried into infinity or zero.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void StoreUpper(BFloat16* destination, Vector128<uint> rounded)
    {
        var quiet = _lanes.AsUInt32() | Vector128.Create(0x00400000u);
        var upper = Vector128.ConditionalSelect(Vector128.Equals(_lanes, _lanes).AsUInt32(), rounded, quiet) >>> 16;
        *(ulong*)destination = Vector128.Narrow(upper, upper).AsUInt64().ToScalar();
    }
}
