using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The vector width that the CPU kernels use in this process.</summary>
internal static class CpuSimd
{
    private const string Variable = "AUXCORE_SIMD";

    // 256 bits before 512: streaming loops wait for memory, not for arithmetic.
    private static SimdWidth Best =>
        Vector256.IsHardwareAccelerated ? SimdWidth.Bits256 : Vector128.IsHardwareAccelerated ? SimdWidth.Bits128 : SimdWidth.Scalar;

    private static SimdWidth? Default;

    [ThreadStatic]
    private static SimdWidth? Forced;

    /// <summary>
    /// The best width for streaming loops here, or what the environment variable <c>AUXCORE_SIMD</c> asks for (1, 128, 256 or 512).
    /// </summary>
    /// <exception cref="AuxException">The variable asks for something else.</exception>
    public static SimdWidth Width => Forced ?? (Default ??= Parse(Environment.GetEnvironmentVariable(Variable)));

    /// <summary>
    /// The same for blocked products, whose loops wait for arithmetic: 512 bits where the runtime holds them to be worth their while.
    /// </summary>
    public static SimdWidth ProductWidth =>
        Forced is null && Vector512.IsHardwareAccelerated && Environment.GetEnvironmentVariable(Variable) is null or ""
            ? SimdWidth.Bits512
            : Width;

    /// <summary>
    /// Runs an action with another width on this thread: how the tests reach all of them. A width without hardware is emulated.
    /// </summary>
    public static void With(SimdWidth width, Action action)
    {
        Forced = width;
        try
        {
            action();
        }
        finally
        {
            Forced = null;
        }
    }

    internal static SimdWidth Parse(string? text) => text switch
    {
        null or "" => Best,
        "1" => SimdWidth.Scalar,
        "128" => SimdWidth.Bits128,
        "256" => SimdWidth.Bits256,
        "512" => SimdWidth.Bits512,
        _ => throw new AuxException(Variable, $"The environment variable {Variable} is '{text}'; it may be 1, 128, 256 or 512."),
    };
}

/// <summary>Binary16 and binary32, bit by bit: constants of the conversions, and the conversion that the vectors do lane by lane.</summary>
internal static class HalfBits
{
    /// <summary>2^112: the difference of the exponent biases of binary32 and binary16.</summary>
    public const float ExponentShift = 5.192296858534828e33f;

    /// <summary>The bits of binary16's infinity; greater magnitudes are NaN.</summary>
    public const uint Infinity = 0x7C00;

    /// <summary>The bits of binary32's infinity.</summary>
    public const uint SingleInfinity = 0x7F800000;

    /// <summary>The difference of the exponent biases, in the place of binary32's exponent.</summary>
    public const uint BiasDifference = 112u << 23;

    /// <summary>The bits, as a binary32, of 2^-14, the least normal binary16.</summary>
    public const uint LeastNormal = 113u << 23;

    /// <summary>
    /// The bits of 65520, halfway between the greatest binary16 and what would follow it; from there on it rounds to infinity.
    /// </summary>
    public const uint Overflow = 0x477F_F000;

    /// <summary>One half: added to a binary32 below 2^-14, it rounds it to the multiples of 2^-24, binary16's least step.</summary>
    public const float SubnormalShift = 0.5f;

    /// <summary>The bits of <see cref="SubnormalShift"/>.</summary>
    public const uint SubnormalShiftBits = 126u << 23;

    /// <summary>The bits of a quiet NaN.</summary>
    public const uint QuietNaN = 0x7E00;

    /// <summary>Rounds to nearest, ties to even. A NaN stays a NaN: it becomes quiet and keeps its sign and upper payload.</summary>
    public static ushort Narrow(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        var magnitude = bits & 0x7FFF_FFFFu;
        var narrow = magnitude > SingleInfinity ? QuietNaN | ((magnitude >> 13) & 0x3FFu)
            : magnitude >= Overflow ? Infinity
            : magnitude < LeastNormal
                ? BitConverter.SingleToUInt32Bits(BitConverter.UInt32BitsToSingle(magnitude) + SubnormalShift) - SubnormalShiftBits
                : (magnitude - (BiasDifference - 0xFFF) + ((magnitude >> 13) & 1u)) >> 13;
        return (ushort)(narrow | ((bits >> 16) & 0x8000u));
    }
}
