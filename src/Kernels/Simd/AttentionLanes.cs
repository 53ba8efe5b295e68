using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace AuxCore.Kernels;

// Lane operations of attention: sums of rows, and the parts of an exponential.

internal unsafe partial interface IFloatVector<TSelf>
{
    /// <summary>The sums of the lanes of four vectors, in an order that depends on the width.</summary>
    static abstract Vector128<float> SumEach(TSelf a, TSelf b, TSelf c, TSelf d);

    /// <summary>Lane by lane: the greater number; <paramref name="b"/> or NaN where either is NaN.</summary>
    static abstract TSelf Greater(TSelf a, TSelf b);

    /// <summary>2ⁿ of lanes 1.5 · 2²³ + n, where n is whole and within −126 and 127; something else where it is not.</summary>
    static abstract TSelf PowerOfTwo(TSelf shifted);

    /// <summary>Lane by lane: 0 where x is below the limit, else the value, also where x is NaN.</summary>
    static abstract TSelf ZeroBelow(TSelf value, TSelf x, TSelf limit);
}

internal readonly unsafe partial struct FloatVector1
{
    public static Vector128<float> SumEach(FloatVector1 a, FloatVector1 b, FloatVector1 c, FloatVector1 d) =>
        Vector128.Create(a._lane, b._lane, c._lane, d._lane);

    public static FloatVector1 Greater(FloatVector1 a, FloatVector1 b) => a._lane > b._lane ? a : b;

    public static FloatVector1 PowerOfTwo(FloatVector1 shifted) =>
        new(BitConverter.UInt32BitsToSingle((BitConverter.SingleToUInt32Bits(shifted._lane) << 23) + 0x3F80_0000u));

    public static FloatVector1 ZeroBelow(FloatVector1 value, FloatVector1 x, FloatVector1 limit) =>
        x._lane < limit._lane ? new(0) : value;
}

internal readonly unsafe partial struct FloatVector4
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> SumEach(FloatVector4 a, FloatVector4 b, FloatVector4 c, FloatVector4 d) =>
        LaneSums.OfEach(a._lanes, b._lanes, c._lanes, d._lanes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 Greater(FloatVector4 a, FloatVector4 b) => new(Vector128.MaxNative(a._lanes, b._lanes));

    // The lower bits of the shifted number are n; what is above them is shifted out.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 PowerOfTwo(FloatVector4 shifted) =>
        new(((shifted._lanes.AsUInt32() << 23) + Vector128.Create(0x3F80_0000u)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 ZeroBelow(FloatVector4 value, FloatVector4 x, FloatVector4 limit) =>
        new(Vector128.AndNot(value._lanes, Vector128.LessThan(x._lanes, limit._lanes)));
}

internal readonly unsafe partial struct FloatVector8
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> SumEach(FloatVector8 a, FloatVector8 b, FloatVector8 c, FloatVector8 d) =>
        FloatVector4.SumEach(
            new(a._lanes.GetLower() + a._lanes.GetUpper()), new(b._lanes.GetLower() + b._lanes.GetUpper()),
            new(c._lanes.GetLower() + c._lanes.GetUpper()), new(d._lanes.GetLower() + d._lanes.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 Greater(FloatVector8 a, FloatVector8 b) => new(Vector256.MaxNative(a._lanes, b._lanes));

    // The lower bits of the shifted number are n; what is above them is shifted out.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 PowerOfTwo(FloatVector8 shifted) =>
        new(((shifted._lanes.AsUInt32() << 23) + Vector256.Create(0x3F80_0000u)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 ZeroBelow(FloatVector8 value, FloatVector8 x, FloatVector8 limit) =>
        new(Vector256.AndNot(value._lanes, Vector256.LessThan(x._lanes, limit._lanes)));
}

internal readonly unsafe partial struct FloatVector16
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> SumEach(FloatVector16 a, FloatVector16 b, FloatVector16 c, FloatVector16 d) =>
        FloatVector8.SumEach(
            new(a._lanes.GetLower() + a._lanes.GetUpper()), new(b._lanes.GetLower() + b._lanes.GetUpper()),
            new(c._lanes.GetLower() + c._lanes.GetUpper()), new(d._lanes.GetLower() + d._lanes.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 Greater(FloatVector16 a, FloatVector16 b) => new(Vector512.MaxNative(a._lanes, b._lanes));

    // The lower bits of the shifted number are n; what is above them is shifted out.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 PowerOfTwo(FloatVector16 shifted) =>
        new(((shifted._lanes.AsUInt32() << 23) + Vector512.Create(0x3F80_0000u)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 ZeroBelow(FloatVector16 value, FloatVector16 x, FloatVector16 limit) =>
        new(Vector512.AndNot(value._lanes, Vector512.LessThan(x._lanes, limit._lanes)));
}

/// <summary>Sums across lanes.</summary>
internal static class LaneSums
{
    /// <summary>Lane i: the sum of the lanes of vector i.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> OfEach(Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d)
    {
        if (!Sse.IsSupported)
            return Vector128.Create(Vector128.Sum(a), Vector128.Sum(b), Vector128.Sum(c), Vector128.Sum(d));
        var ab = Sse.UnpackLow(a, b) + Sse.UnpackHigh(a, b);
        var cd = Sse.UnpackLow(c, d) + Sse.UnpackHigh(c, d);
        return Sse.MoveLowToHigh(ab, cd) + Sse.MoveHighToLow(cd, ab);
    }
}
