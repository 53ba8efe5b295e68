using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

// Lane operations of indicators r = 1[x > 0]: their values, and the bits that they pack into.

internal unsafe partial interface IFloatVector<TSelf>
{
    /// <summary>Lane by lane, of x = a + b: <paramref name="height"/> where x &gt; 0, NaN where x is, else 0.</summary>
    static abstract TSelf Step(TSelf a, TSelf b, TSelf height);

    /// <summary>Lane i: <paramref name="height"/> where bit <paramref name="at"/> + i is set, else 0.</summary>
    static abstract TSelf FromBits(byte* bits, int at, TSelf height);

    /// <summary>Bit i: lane i is positive.</summary>
    static abstract uint PositiveBits(TSelf value);

    /// <summary>The sum of the lanes, in an order that depends on the width.</summary>
    static abstract float Sum(TSelf value);

    /// <summary>Lane by lane: x · above where x &gt; 0, else x · below; NaN where x is.</summary>
    static abstract TSelf Slopes(TSelf x, TSelf above, TSelf below);
}

internal readonly unsafe partial struct FloatVector1
{
    public static FloatVector1 Step(FloatVector1 a, FloatVector1 b, FloatVector1 height)
    {
        var x = a._lane + b._lane;
        return new(x > 0 ? height._lane : float.IsNaN(x) ? x : 0);
    }

    public static FloatVector1 FromBits(byte* bits, int at, FloatVector1 height) =>
        new(((bits[at >> 3] >> (at & 7)) & 1) != 0 ? height._lane : 0);

    public static uint PositiveBits(FloatVector1 value) => value._lane > 0 ? 1u : 0;

    public static float Sum(FloatVector1 value) => value._lane;

    public static FloatVector1 Slopes(FloatVector1 x, FloatVector1 above, FloatVector1 below) =>
        new(x._lane * (x._lane > 0 ? above._lane : below._lane));
}

internal readonly unsafe partial struct FloatVector4
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 Step(FloatVector4 a, FloatVector4 b, FloatVector4 height)
    {
        var x = a._lanes + b._lanes;
        var positive = Vector128.GreaterThan(x, Vector128<float>.Zero) & height._lanes;
        return new(positive | Vector128.AndNot(x, Vector128.Equals(x, x)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 FromBits(byte* bits, int at, FloatVector4 height)
    {
        var powers = Vector128.Create(1u, 2u, 4u, 8u);
        var set = Vector128.Create(BitString.From(bits, at, Count)) & powers;
        return new(Vector128.Equals(set, powers).AsSingle() & height._lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint PositiveBits(FloatVector4 value) =>
        Vector128.GreaterThan(value._lanes, Vector128<float>.Zero).ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(FloatVector4 value) => Vector128.Sum(value._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 Slopes(FloatVector4 x, FloatVector4 above, FloatVector4 below)
    {
        var isPositive = Vector128.GreaterThan(x._lanes, Vector128<float>.Zero);
        return new(x._lanes * Vector128.ConditionalSelect(isPositive, above._lanes, below._lanes));
    }
}

internal readonly unsafe partial struct FloatVector8
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 Step(FloatVector8 a, FloatVector8 b, FloatVector8 height)
    {
        var x = a._lanes + b._lanes;
        var positive = Vector256.GreaterThan(x, Vector256<float>.Zero) & height._lanes;
        return new(positive | Vector256.AndNot(x, Vector256.Equals(x, x)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 FromBits(byte* bits, int at, FloatVector8 height)
    {
        var powers = Vector256.Create(1u, 2u, 4u, 8u, 16u, 32u, 64u, 128u);
        var set = Vector256.Create(BitString.From(bits, at, Count)) & powers;
        return new(Vector256.Equals(set, powers).AsSingle() & height._lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint PositiveBits(FloatVector8 value) =>
        Vector256.GreaterThan(value._lanes, Vector256<float>.Zero).ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(FloatVector8 value) => Vector256.Sum(value._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 Slopes(FloatVector8 x, FloatVector8 above, FloatVector8 below)
    {
        var isPositive = Vector256.GreaterThan(x._lanes, Vector256<float>.Zero);
        return new(x._lanes * Vector256.ConditionalSelect(isPositive, above._lanes, below._lanes));
    }
}

internal readonly unsafe partial struct FloatVector16
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 Step(FloatVector16 a, FloatVector16 b, FloatVector16 height)
    {
        var x = a._lanes + b._lanes;
        var positive = Vector512.GreaterThan(x, Vector512<float>.Zero) & height._lanes;
        return new(positive | Vector512.AndNot(x, Vector512.Equals(x, x)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 FromBits(byte* bits, int at, FloatVector16 height)
    {
        var powers = Vector512.Create(
            1u, 2u, 4u, 8u, 16u, 32u, 64u, 128u, 256u, 512u, 1024u, 2048u, 4096u, 8192u, 16384u, 32768u);
        var set = Vector512.Create(BitString.From(bits, at, Count)) & powers;
        return new(Vector512.Equals(set, powers).AsSingle() & height._lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint PositiveBits(FloatVector16 value) =>
        (uint)Vector512.GreaterThan(value._lanes, Vector512<float>.Zero).ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(FloatVector16 value) => Vector512.Sum(value._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 Slopes(FloatVector16 x, FloatVector16 above, FloatVector16 below)
    {
        var isPositive = Vector512.GreaterThan(x._lanes, Vector512<float>.Zero);
        return new(x._lanes * Vector512.ConditionalSelect(isPositive, above._lanes, below._lanes));
    }
}

/// <summary>Bits in bytes, the least significant first.</summary>
internal static unsafe class BitString
{
    /// <summary>At least <paramref name="count"/> bits from bit <paramref name="at"/> on; no byte is read that has none of them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint From(byte* bits, int at, int count)
    {
        var first = bits + (at >> 3);
        var shift = at & 7;
        uint value = first[0];
        if (shift + count > 8)
            value |= (uint)first[1] << 8;
        if (shift + count > 16)
            value |= (uint)first[2] << 16;
        return value >> shift;
    }
}
