using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
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
        if (typeof(T) == typeof(BFloat16))
            return new((bits << 16).AsSingle());

        // binary16: exponent and mantissa move to their places, and a product with 2^112, exact also for subnormals, mends the bias.
        var magnitude = (bits & Vector512.Create(0x7FFFu)) << 13;
        var scaled = (magnitude.AsSingle() * Vector512.Create(HalfBits.ExponentShift)).AsUInt32();
        var special =
            Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(HalfBits.Infinity << 13)) & Vector512.Create(HalfBits.SingleInfinity);
        return new((scaled | special | ((bits & Vector512.Create(0x8000u)) << 16)).AsSingle());
    }

    public void Store(float* destination) => _lanes.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination)
    {
        var bits = _lanes.AsUInt32();
        StoreUpper(destination, bits + Vector512.Create(0x7FFFu) + ((bits >>> 16) & Vector512<uint>.One));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(BFloat16* destination, ushort* bits) =>
        StoreUpper(destination, _lanes.AsUInt32() + Vector512.WidenLower(Vector256.Load(bits).ToVector512Unsafe()));

    public static FloatVector16 operator -(FloatVector16 left, FloatVector16 right) => new(left._lanes - right._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 MultiplyAdd(FloatVector16 a, FloatVector16 b, FloatVector16 c) =>
        new(Vector512.FusedMultiplyAdd(a._lanes, b._lanes, c._lanes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 WhereEqual(FloatVector16 a, FloatVector16 b, FloatVector16 then, FloatVector16 otherwise) =>
        new(Vector512.ConditionalSelect(Vector512.Equals(a._lanes, b._lanes), then._lanes, otherwise._lanes));

    // The upper halves of rounded bits; those of a NaN come from the value itself, which rounding may have carried into infinity or zero.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void StoreUpper(BFloat16* destination, Vector512<uint> rounded)
    {
        var quiet = _lanes.AsUInt32() | Vector512.Create(0x00400000u);
        var upper = Vector512.ConditionalSelect(Vector512.Equals(_lanes, _lanes).AsUInt32(), rounded, quiet) >>> 16;
        Vector256.Narrow(upper.GetLower(), upper.GetUpper()).Store((ushort*)destination);
    }
}
