using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>How the keys or the values of a KV cache are stored. Keys and values choose independently.</summary>
public enum KvFormat
{
    /// <summary>IEEE 754 binary32, 4 bytes an element.</summary>
    F32,

    /// <summary>IEEE 754 binary16, 2 bytes an element, rounded to nearest, ties to even.</summary>
    F16,

    /// <summary>bfloat16, 2 bytes an element, rounded to nearest, ties to even.</summary>
    BF16,

    /// <summary>
    /// FP8 E4M3 (Micikevicius et al. 2022, arXiv 2209.05433), 1 byte an element, of a scale that the caller keeps: x = scale · e4m3.
    /// Rounded to nearest, ties to even; what exceeds 448, infinities too, becomes 448.
    /// </summary>
    Fp8E4M3,

    /// <summary>
    /// llama.cpp's q8_0: groups of 32 elements in 34 bytes, a binary16 d = max|x| / 127 and 32 signed bytes q; x ≈ d · q.
    /// </summary>
    Q8_0,

    /// <summary>
    /// llama.cpp's q4_0: groups of 32 elements in 18 bytes, a binary16 d = x₀ / −8, where x₀ is the first element of greatest magnitude,
    /// and 16 bytes, whose lower halves are elements 0 … 15 and upper halves elements 16 … 31; x ≈ d · (q − 8).
    /// </summary>
    Q4_0,

    /// <summary>
    /// KIVI's four bits (Liu et al. 2024, arXiv 2402.02750), with a scale and a zero point: groups of 32 elements in 20 bytes, a binary16
    /// s, a binary16 m, and 16 bytes as in <see cref="Q4_0"/>; x ≈ q · s + m. Values are grouped over 32 channels of a token. Keys are
    /// grouped over 32 tokens, channel by channel: 32 positions of a head are d groups, one a channel. The latest tokens stay in float32.
    /// </summary>
    Kivi4,
}

/// <summary>Facts about each <see cref="KvFormat"/>.</summary>
public static class KvFormats
{
    /// <summary>How many neighbouring elements share a scale: 32, or 1 where each stands for itself.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Not a KvFormat.</exception>
    public static int GroupSize(this KvFormat format) => Layout(format).Elements;

    /// <summary>The bytes of a number of elements.</summary>
    /// <param name="format">How they are stored.</param>
    /// <param name="elements">Not negative, and a multiple of <see cref="GroupSize"/>.</param>
    /// <exception cref="ArgumentException">Not a multiple of the group size.</exception>
    /// <exception cref="ArgumentOutOfRangeException">Not a KvFormat, or a negative number.</exception>
    /// <exception cref="OverflowException">The bytes exceed 64 bits.</exception>
    public static long ByteCount(this KvFormat format, long elements)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(elements);
        var (group, bytes) = Layout(format);
        if (elements % group != 0)
            throw new ArgumentException($"elements: {elements} is not a multiple of {group}, the groups of {format}", nameof(elements));
        return checked(elements / group * bytes);
    }

    /// <summary>The dtype whose elements are those of the format; null where there is none.</summary>
    internal static DType? OwnType(this KvFormat format) => format switch
    {
        KvFormat.F32 => DType.Float32,
        KvFormat.F16 => DType.Float16,
        KvFormat.BF16 => DType.BFloat16,
        _ => null,
    };

    private static (int Elements, int Bytes) Layout(KvFormat format) => format switch
    {
        KvFormat.F32 => (1, sizeof(float)),
        KvFormat.F16 or KvFormat.BF16 => (1, sizeof(ushort)),
        KvFormat.Fp8E4M3 => (1, 1),
        KvFormat.Q8_0 => (Q8Group.Elements, Q8Group.Bytes),
        KvFormat.Q4_0 => (Q4Group.Elements, Q4Group.Bytes),
        KvFormat.Kivi4 => (KiviGroup.Elements, KiviGroup.Bytes),
        _ => throw new ArgumentOutOfRangeException(nameof(format), format, "Not a KvFormat."),
    };
}

/// <summary>A group of q8_0 in memory: a binary16 scale, then a signed byte for each element.</summary>
internal static class Q8Group
{
    public const int Elements = 32;
    public const int Bytes = sizeof(ushort) + Elements;
    public const int Largest = 127;
}

/// <summary>A group of q4_0 in memory: a binary16 scale, then half a byte for each element.</summary>
internal static class Q4Group
{
    public const int Elements = 32;
    public const int Bytes = sizeof(ushort) + Elements / 2;
    public const int Zero = 8;
    public const int Largest = 15;
}

/// <summary>A group of KIVI-4 in memory: a binary16 scale, a binary16 least element, then half a byte for each element.</summary>
internal static class KiviGroup
{
    public const int Elements = 32;
    public const int Bytes = 2 * sizeof(ushort) + Elements / 2;
    public const int Largest = 15;
}
