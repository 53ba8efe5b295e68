using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace AuxCore.Kernels;

// Lane operations of the formats of a KV cache: groups that share a scale, whole numbers of eight and of four bits, FP8.

internal unsafe partial interface IFloatVector<TSelf>
{
    /// <summary>Lane by lane: the greater magnitude, compared by bits, so that NaN is above infinity.</summary>
    static abstract TSelf LargerMagnitude(TSelf a, TSelf b);

    /// <summary>The greatest of magnitudes, as bits.</summary>
    static abstract uint LargestBits(TSelf magnitudes);

    /// <summary>Bit i: lane i has this magnitude.</summary>
    static abstract uint EqualMagnitudes(TSelf value, TSelf magnitude);

    /// <summary>Stores lanes within ±127 as signed bytes, rounded to nearest, halves away from zero.</summary>
    void StoreRounded(sbyte* destination);

    /// <summary>Stores lanes within 0 and 2³⁰, cut to whole numbers of at most 15, as the halves of bytes.</summary>
    static abstract void StoreHalves(TSelf lower, TSelf upper, byte* destination);

    /// <summary>Signed bytes.</summary>
    static abstract TSelf LoadInt8(sbyte* source);

    /// <summary>The four bits of each byte from bit <paramref name="shift"/> on, less 8.</summary>
    static abstract TSelf LoadHalves(byte* source, int shift);

    /// <summary>Stores FP8 E4M3, rounded to nearest, ties to even; the greatest is 448, a NaN stays one.</summary>
    void StoreE4M3(byte* destination);

    /// <summary>FP8 E4M3, exactly.</summary>
    static abstract TSelf LoadE4M3(byte* source);
}

/// <summary>
/// FP8 E4M3 and binary32, bit by bit: constants of the conversions, and the conversions that the vectors do lane by lane.
/// </summary>
internal static class E4M3Bits
{
    /// <summary>The bits, as a binary32, of 448, the greatest E4M3.</summary>
    public const uint Greatest = 0x43E0_0000;

    /// <summary>The bits, as a binary32, of 2^-6, the least normal E4M3.</summary>
    public const uint LeastNormal = 121u << 23;

    /// <summary>The difference of the exponent biases, in the place of binary32's exponent.</summary>
    public const uint BiasDifference = 120u << 23;

    /// <summary>2^120: the difference of the exponent biases of binary32 and E4M3.</summary>
    public const float ExponentShift = 1.329227995784915872903807060280344576e36f;

    /// <summary>2^14: added to a binary32 below 2^-6, it rounds it to the multiples of 2^-9, E4M3's least step.</summary>
    public const float SubnormalShift = 16384;

    /// <summary>The bits of <see cref="SubnormalShift"/>.</summary>
    public const uint SubnormalShiftBits = 141u << 23;

    /// <summary>The bits of its NaN.</summary>
    public const uint NaN = 0x7F;

    /// <summary>Rounds to nearest, ties to even.</summary>
    public static byte Narrow(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        var magnitude = Math.Min(bits & 0x7FFF_FFFFu, Greatest);
        var narrow = float.IsNaN(value) ? NaN
            : magnitude < LeastNormal
                ? BitConverter.SingleToUInt32Bits(BitConverter.UInt32BitsToSingle(magnitude) + SubnormalShift) - SubnormalShiftBits
                : (magnitude - BiasDifference + 0x7FFFF + ((magnitude >> 20) & 1u)) >> 20;
        return (byte)(narrow | ((bits >> 24) & 0x80u));
    }

    /// <summary>Exact.</summary>
    public static float Widen(byte bits)
    {
        var magnitude = bits & 0x7Fu;
        var value = magnitude == NaN ? float.NaN : BitConverter.UInt32BitsToSingle(magnitude << 20) * ExponentShift;
        return bits >= 0x80 ? -value : value;
    }
}

internal readonly unsafe partial struct FloatVector1
{
    public static FloatVector1 LargerMagnitude(FloatVector1 a, FloatVector1 b) =>
        new(BitConverter.UInt32BitsToSingle(Math.Max(LargestBits(a), LargestBits(b))));

    public static uint LargestBits(FloatVector1 magnitudes) => BitConverter.SingleToUInt32Bits(magnitudes._lane) & 0x7FFF_FFFFu;

    public static uint EqualMagnitudes(FloatVector1 value, FloatVector1 magnitude) =>
        MathF.Abs(value._lane) == magnitude._lane ? 1u : 0;

    public void StoreRounded(sbyte* destination) => *destination = (sbyte)MathF.Round(_lane, MidpointRounding.AwayFromZero);

    public static void StoreHalves(FloatVector1 lower, FloatVector1 upper, byte* destination) =>
        *destination = (byte)(Math.Min((int)lower._lane, 15) | (Math.Min((int)upper._lane, 15) << 4));

    public static FloatVector1 LoadInt8(sbyte* source) => new(*source);

    public static FloatVector1 LoadHalves(byte* source, int shift) => new(((*source >> shift) & 15) - 8);

    public void StoreE4M3(byte* destination) => *destination = E4M3Bits.Narrow(_lane);

    public static FloatVector1 LoadE4M3(byte* source) => new(E4M3Bits.Widen(*source));
}

internal readonly unsafe partial struct FloatVector4
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 LargerMagnitude(FloatVector4 a, FloatVector4 b) =>
        new(Vector128.Max(Vector128.Abs(a._lanes).AsInt32(), Vector128.Abs(b._lanes).AsInt32()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint LargestBits(FloatVector4 magnitudes) => (uint)LaneBits.Largest(magnitudes._lanes.AsInt32());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint EqualMagnitudes(FloatVector4 value, FloatVector4 magnitude) =>
        (uint)Vector128.Equals(Vector128.Abs(value._lanes), magnitude._lanes).ExtractMostSignificantBits();

    // A half is added towards the lane's sign, less one unit so that what is just below a half stays below one; then the fraction is cut.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreRounded(sbyte* destination)
    {
        var half = (_lanes & Vector128.Create(-0f)) | Vector128.Create(0.49999997f);
        StoreBytes(Vector128.ConvertToInt32Native(_lanes + half), (byte*)destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreHalves(FloatVector4 lower, FloatVector4 upper, byte* destination)
    {
        var largest = Vector128.Create(15);
        var first = Vector128.Min(Vector128.ConvertToInt32Native(lower._lanes), largest);
        var second = Vector128.Min(Vector128.ConvertToInt32Native(upper._lanes), largest);
        StoreBytes(first | (second << 4), destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 LoadInt8(sbyte* source) => new(Vector128.ConvertToSingle(Sse41.IsSupported
        ? Sse41.ConvertToVector128Int32(Vector128.CreateScalarUnsafe(*(uint*)source).AsSByte())
        : Vector128.WidenLower(Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(uint*)source).AsSByte()))));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 LoadHalves(byte* source, int shift)
    {
        var halves = (LoadBytes(source) >>> shift) & Vector128.Create(15);
        return new(Vector128.ConvertToSingle(halves - Vector128.Create(8)));
    }

    // As E4M3Bits.Narrow, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreE4M3(byte* destination)
    {
        var bits = _lanes.AsUInt32();
        var magnitude = Vector128.Min(bits & Vector128.Create(0x7FFF_FFFFu), Vector128.Create(E4M3Bits.Greatest));
        var ties = (magnitude >>> 20) & Vector128<uint>.One;
        var normal = (magnitude - Vector128.Create(E4M3Bits.BiasDifference - 0x7FFFF) + ties) >>> 20;
        var shifted = (magnitude.AsSingle() + Vector128.Create(E4M3Bits.SubnormalShift)).AsUInt32();
        var subnormal = shifted - Vector128.Create(E4M3Bits.SubnormalShiftBits);
        var isSubnormal = Vector128.LessThan(magnitude, Vector128.Create(E4M3Bits.LeastNormal));
        var narrow = Vector128.ConditionalSelect(isSubnormal, subnormal, normal);
        narrow = Vector128.ConditionalSelect(Vector128.Equals(_lanes, _lanes).AsUInt32(), narrow, Vector128.Create(E4M3Bits.NaN));
        StoreBytes((narrow | ((bits >>> 24) & Vector128.Create(0x80u))).AsInt32(), destination);
    }

    // As E4M3Bits.Widen, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector4 LoadE4M3(byte* source)
    {
        var bits = LoadBytes(source).AsUInt32();
        var magnitude = bits & Vector128.Create(0x7Fu);
        var value = (magnitude << 20).AsSingle() * Vector128.Create(E4M3Bits.ExponentShift);
        var isNaN = Vector128.Equals(magnitude, Vector128.Create(E4M3Bits.NaN)).AsSingle();
        value = Vector128.ConditionalSelect(isNaN, Vector128.Create(float.NaN), value);
        return new(value ^ ((bits & Vector128.Create(0x80u)) << 24).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> LoadBytes(byte* source) => Sse41.IsSupported
        ? Sse41.ConvertToVector128Int32(Vector128.CreateScalarUnsafe(*(uint*)source).AsByte())
        : Vector128.WidenLower(Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(uint*)source).AsByte())).AsInt32();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreBytes(Vector128<int> lanes, byte* destination)
    {
        var words = Vector128.Narrow(lanes, lanes);
        *(uint*)destination = Vector128.Narrow(words, words).AsUInt32().ToScalar();
    }
}

internal readonly unsafe partial struct FloatVector8
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 LargerMagnitude(FloatVector8 a, FloatVector8 b) =>
        new(Vector256.Max(Vector256.Abs(a._lanes).AsInt32(), Vector256.Abs(b._lanes).AsInt32()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint LargestBits(FloatVector8 magnitudes) => (uint)LaneBits.Largest(
        Vector128.Max(magnitudes._lanes.AsInt32().GetLower(), magnitudes._lanes.AsInt32().GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint EqualMagnitudes(FloatVector8 value, FloatVector8 magnitude) =>
        (uint)Vector256.Equals(Vector256.Abs(value._lanes), magnitude._lanes).ExtractMostSignificantBits();

    // A half is added towards the lane's sign, less one unit so that what is just below a half stays below one; then the fraction is cut.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreRounded(sbyte* destination)
    {
        var half = (_lanes & Vector256.Create(-0f)) | Vector256.Create(0.49999997f);
        StoreBytes(Vector256.ConvertToInt32Native(_lanes + half), (byte*)destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreHalves(FloatVector8 lower, FloatVector8 upper, byte* destination)
    {
        var largest = Vector256.Create(15);
        var first = Vector256.Min(Vector256.ConvertToInt32Native(lower._lanes), largest);
        var second = Vector256.Min(Vector256.ConvertToInt32Native(upper._lanes), largest);
        StoreBytes(first | (second << 4), destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 LoadInt8(sbyte* source) => new(Vector256.ConvertToSingle(Avx2.IsSupported
        ? Avx2.ConvertToVector256Int32(Vector128.CreateScalarUnsafe(*(ulong*)source).AsSByte())
        : Vector256.WidenLower(Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)source).AsSByte()).ToVector256Unsafe())));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 LoadHalves(byte* source, int shift)
    {
        var halves = (LoadBytes(source) >>> shift) & Vector256.Create(15);
        return new(Vector256.ConvertToSingle(halves - Vector256.Create(8)));
    }

    // As E4M3Bits.Narrow, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreE4M3(byte* destination)
    {
        var bits = _lanes.AsUInt32();
        var magnitude = Vector256.Min(bits & Vector256.Create(0x7FFF_FFFFu), Vector256.Create(E4M3Bits.Greatest));
        var ties = (magnitude >>> 20) & Vector256<uint>.One;
        var normal = (magnitude - Vector256.Create(E4M3Bits.BiasDifference - 0x7FFFF) + ties) >>> 20;
        var shifted = (magnitude.AsSingle() + Vector256.Create(E4M3Bits.SubnormalShift)).AsUInt32();
        var subnormal = shifted - Vector256.Create(E4M3Bits.SubnormalShiftBits);
        var isSubnormal = Vector256.LessThan(magnitude, Vector256.Create(E4M3Bits.LeastNormal));
        var narrow = Vector256.ConditionalSelect(isSubnormal, subnormal, normal);
        narrow = Vector256.ConditionalSelect(Vector256.Equals(_lanes, _lanes).AsUInt32(), narrow, Vector256.Create(E4M3Bits.NaN));
        StoreBytes((narrow | ((bits >>> 24) & Vector256.Create(0x80u))).AsInt32(), destination);
    }

    // As E4M3Bits.Widen, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector8 LoadE4M3(byte* source)
    {
        var bits = LoadBytes(source).AsUInt32();
        var magnitude = bits & Vector256.Create(0x7Fu);
        var value = (magnitude << 20).AsSingle() * Vector256.Create(E4M3Bits.ExponentShift);
        var isNaN = Vector256.Equals(magnitude, Vector256.Create(E4M3Bits.NaN)).AsSingle();
        value = Vector256.ConditionalSelect(isNaN, Vector256.Create(float.NaN), value);
        return new(value ^ ((bits & Vector256.Create(0x80u)) << 24).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> LoadBytes(byte* source) => Avx2.IsSupported
        ? Avx2.ConvertToVector256Int32(Vector128.CreateScalarUnsafe(*(ulong*)source).AsByte())
        : Vector256.WidenLower(
            Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)source).AsByte()).ToVector256Unsafe()).AsInt32();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreBytes(Vector256<int> lanes, byte* destination)
    {
        var words = Vector128.Narrow(lanes.GetLower(), lanes.GetUpper());
        *(ulong*)destination = Vector128.Narrow(words, words).AsUInt64().ToScalar();
    }
}

internal readonly unsafe partial struct FloatVector16
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 LargerMagnitude(FloatVector16 a, FloatVector16 b) =>
        new(Vector512.Max(Vector512.Abs(a._lanes).AsInt32(), Vector512.Abs(b._lanes).AsInt32()).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint LargestBits(FloatVector16 magnitudes) => FloatVector8.LargestBits(new(
        Vector256.Max(magnitudes._lanes.AsInt32().GetLower(), magnitudes._lanes.AsInt32().GetUpper()).AsSingle()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint EqualMagnitudes(FloatVector16 value, FloatVector16 magnitude) =>
        (uint)Vector512.Equals(Vector512.Abs(value._lanes), magnitude._lanes).ExtractMostSignificantBits();

    // A half is added towards the lane's sign, less one unit so that what is just below a half stays below one; then the fraction is cut.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreRounded(sbyte* destination)
    {
        var half = (_lanes & Vector512.Create(-0f)) | Vector512.Create(0.49999997f);
        StoreBytes(Vector512.ConvertToInt32Native(_lanes + half), (byte*)destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreHalves(FloatVector16 lower, FloatVector16 upper, byte* destination)
    {
        var largest = Vector512.Create(15);
        var first = Vector512.Min(Vector512.ConvertToInt32Native(lower._lanes), largest);
        var second = Vector512.Min(Vector512.ConvertToInt32Native(upper._lanes), largest);
        StoreBytes(first | (second << 4), destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 LoadInt8(sbyte* source) => new(Vector512.ConvertToSingle(Avx512F.IsSupported
        ? Avx512F.ConvertToVector512Int32(Vector128.Load(source))
        : Vector512.WidenLower(Vector256.WidenLower(Vector128.Load(source).ToVector256Unsafe()).ToVector512Unsafe())));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 LoadHalves(byte* source, int shift)
    {
        if (Avx512F.IsSupported) // sixteen numbers fit a register, which is looked up by the lower four bits
        {
            var numbers = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
            return new(Avx512F.PermuteVar16x32(numbers, LoadBytes(source) >>> shift));
        }

        var halves = (LoadBytes(source) >>> shift) & Vector512.Create(15);
        return new(Vector512.ConvertToSingle(halves - Vector512.Create(8)));
    }

    // As E4M3Bits.Narrow, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreE4M3(byte* destination)
    {
        var bits = _lanes.AsUInt32();
        var magnitude = Vector512.Min(bits & Vector512.Create(0x7FFF_FFFFu), Vector512.Create(E4M3Bits.Greatest));
        var ties = (magnitude >>> 20) & Vector512<uint>.One;
        var normal = (magnitude - Vector512.Create(E4M3Bits.BiasDifference - 0x7FFFF) + ties) >>> 20;
        var shifted = (magnitude.AsSingle() + Vector512.Create(E4M3Bits.SubnormalShift)).AsUInt32();
        var subnormal = shifted - Vector512.Create(E4M3Bits.SubnormalShiftBits);
        var isSubnormal = Vector512.LessThan(magnitude, Vector512.Create(E4M3Bits.LeastNormal));
        var narrow = Vector512.ConditionalSelect(isSubnormal, subnormal, normal);
        narrow = Vector512.ConditionalSelect(Vector512.Equals(_lanes, _lanes).AsUInt32(), narrow, Vector512.Create(E4M3Bits.NaN));
        StoreBytes((narrow | ((bits >>> 24) & Vector512.Create(0x80u))).AsInt32(), destination);
    }

    // As E4M3Bits.Widen, lane by lane.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FloatVector16 LoadE4M3(byte* source)
    {
        var bits = LoadBytes(source).AsUInt32();
        var magnitude = bits & Vector512.Create(0x7Fu);
        var value = (magnitude << 20).AsSingle() * Vector512.Create(E4M3Bits.ExponentShift);
        var isNaN = Vector512.Equals(magnitude, Vector512.Create(E4M3Bits.NaN)).AsSingle();
        value = Vector512.ConditionalSelect(isNaN, Vector512.Create(float.NaN), value);
        return new(value ^ ((bits & Vector512.Create(0x80u)) << 24).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> LoadBytes(byte* source) => Avx512F.IsSupported
        ? Avx512F.ConvertToVector512Int32(Vector128.Load(source))
        : Vector512.WidenLower(Vector256.WidenLower(Vector128.Load(source).ToVector256Unsafe()).ToVector512Unsafe()).AsInt32();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreBytes(Vector512<int> lanes, byte* destination)
    {
        var words = Vector256.Narrow(lanes.GetLower(), lanes.GetUpper());
        Vector128.Narrow(words.GetLower(), words.GetUpper()).Store((sbyte*)destination);
    }
}

/// <summary>Lanes as whole numbers.</summary>
internal static class LaneBits
{
    /// <summary>The greatest of four.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Largest(Vector128<int> lanes)
    {
        var pairs = Vector128.Max(lanes, Vector128.Shuffle(lanes, Vector128.Create(2, 3, 0, 1)));
        return Vector128.Max(pairs, Vector128.Shuffle(pairs, Vector128.Create(1, 0, 3, 2))).ToScalar();
    }
}
