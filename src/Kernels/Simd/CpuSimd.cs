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

/// <summary>Constants of the conversion from binary16.</summary>
internal static class HalfBits
{
    /// <summary>2^112: the difference of the exponent biases of binary32 and binary16.</summary>
    public const float ExponentShift = 5.192296858534828e33f;

    /// <summary>The bits of binary16's infinity; greater magnitudes are NaN.</summary>
    public const uint Infinity = 0x7C00;

    /// <summary>The bits of binary32's infinity.</summary>
    public const uint SingleInfinity = 0x7F800000;
}
