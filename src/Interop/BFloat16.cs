using System.Globalization;
using System.Runtime.CompilerServices;

namespace AuxCore.Interop;

/// <summary>
/// A bfloat16: the upper sixteen bits of a binary32. A storage type: convert to <see cref="float"/>, compute, convert back.
/// Its two bytes are those of libtorch's and of CUDA's bfloat16, so spans of it may view their memory.
/// </summary>
public readonly struct BFloat16 : IEquatable<BFloat16>
{
    private BFloat16(ushort bits) => Bits = bits;

    /// <summary>The sixteen bits: sign, eight of exponent, seven of mantissa.</summary>
    public ushort Bits { get; }

    /// <summary>Makes a value of its sixteen bits.</summary>
    public static BFloat16 FromBits(ushort bits) => new(bits);

    /// <summary>Widens; exact.</summary>
    public static implicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value.Bits << 16);

    /// <summary>Rounds to nearest, ties to even. A NaN stays a NaN: it becomes quiet and keeps its sign and upper payload.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static explicit operator BFloat16(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value))
            return new BFloat16((ushort)((bits >> 16) | 0x0040));
        // Half a unit of the last kept place, less one, plus that place's parity: carries exactly where nearest-even rounds up.
        return new BFloat16((ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16));
    }

    /// <summary>Equal as numbers: +0 equals −0 and NaN equals nothing, as for <see cref="float"/>.</summary>
    public static bool operator ==(BFloat16 left, BFloat16 right) => (float)left == right;

    /// <summary>The negation of equality as numbers.</summary>
    public static bool operator !=(BFloat16 left, BFloat16 right) => (float)left != right;

    /// <summary>Equal as <see cref="float.Equals(float)"/> has it: NaN equals NaN, so that values can be keys.</summary>
    public bool Equals(BFloat16 other) => ((float)this).Equals(other);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => ((float)this).GetHashCode();

    /// <inheritdoc/>
    public override string ToString() => ((float)this).ToString(CultureInfo.InvariantCulture);
}
