using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

/// <summary>
/// Scores as unsigned integers of the same order, by blocks of 64: what <see cref="TokenSelect"/> compares. NaN is 0, the least; −0 becomes
/// +0; <see cref="uint.MaxValue"/>, which no score has, is above all. A comparison of a block is a number of 64 bits, one a key.
/// </summary>
internal unsafe interface IKeyBlock
{
    const int Count = 64;

    /// <summary>Makes the keys of a block of scores. Which scores are NaN.</summary>
    static abstract ulong Encode(float* scores, uint* keys);

    /// <summary>Which keys are greater than a bound.</summary>
    static abstract ulong Above(uint* keys, uint bound);
}

/// <summary>One score and its key.</summary>
internal static class ScoreKey
{
    public const uint Always = uint.MaxValue;
    public const uint Sign = 0x8000_0000;

    public static uint Of(float score)
    {
        if (float.IsNaN(score))
            return 0;
        var bits = BitConverter.SingleToUInt32Bits(score + 0f); // −0 + 0 = +0
        return (bits & Sign) != 0 ? ~bits : bits | Sign;
    }

    /// <summary>The score of a key that is not NaN's.</summary>
    public static float Score(uint key) => BitConverter.UInt32BitsToSingle((key & Sign) != 0 ? key & ~Sign : ~key);
}

/// <summary>Blocks of keys, whatever their width.</summary>
internal static unsafe class KeyBlocks<TBlock> where TBlock : struct, IKeyBlock
{
    /// <summary>The bits of a block of which <paramref name="left"/> keys, or all, are there.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Valid(int left) => left >= IKeyBlock.Count ? ulong.MaxValue : (1ul << left) - 1;

    /// <summary>Which keys are at least a bound.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong AtLeast(uint* keys, uint bound) => bound == 0 ? ulong.MaxValue : TBlock.Above(keys, bound - 1);

    /// <summary>How many of n keys are at least a bound.</summary>
    public static int CountAtLeast(uint* keys, int n, uint bound)
    {
        var count = 0;
        for (var at = 0; at < n; at += IKeyBlock.Count)
            count += BitOperations.PopCount(AtLeast(keys + at, bound) & Valid(n - at));
        return count;
    }
}

/// <summary>Key by key.</summary>
internal readonly unsafe struct KeyBlock1 : IKeyBlock
{
    public static ulong Encode(float* scores, uint* keys)
    {
        var nan = 0ul;
        for (var i = 0; i < IKeyBlock.Count; i++)
        {
            keys[i] = ScoreKey.Of(scores[i]);
            nan |= (float.IsNaN(scores[i]) ? 1ul : 0) << i;
        }

        return nan;
    }

    public static ulong Above(uint* keys, uint bound)
    {
        var above = 0ul;
        for (var i = 0; i < IKeyBlock.Count; i++)
            above |= (keys[i] > bound ? 1ul : 0) << i;
        return above;
    }
}

/// <summary>Four keys at a time.</summary>
internal readonly unsafe struct KeyBlock4 : IKeyBlock
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Encode(float* scores, uint* keys)
    {
        var numbers = 0ul;
        for (var i = 0; i < IKeyBlock.Count; i += Vector128<uint>.Count)
        {
            var score = Vector128.Load(scores + i) + Vector128<float>.Zero;
            var number = Vector128.Equals(score, score).AsUInt32();
            var flip = (score.AsInt32() >> 31).AsUInt32() | Vector128.Create(ScoreKey.Sign);
            ((score.AsUInt32() ^ flip) & number).Store(keys + i);
            numbers |= (ulong)number.ExtractMostSignificantBits() << i;
        }

        return ~numbers;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Above(uint* keys, uint bound)
    {
        var (above, bounds) = (0ul, Vector128.Create(bound));
        for (var i = 0; i < IKeyBlock.Count; i += Vector128<uint>.Count)
            above |= (ulong)Vector128.GreaterThan(Vector128.Load(keys + i), bounds).ExtractMostSignificantBits() << i;
        return above;
    }
}

/// <summary>Eight keys at a time.</summary>
internal readonly unsafe struct KeyBlock8 : IKeyBlock
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Encode(float* scores, uint* keys)
    {
        var numbers = 0ul;
        for (var i = 0; i < IKeyBlock.Count; i += Vector256<uint>.Count)
        {
            var score = Vector256.Load(scores + i) + Vector256<float>.Zero;
            var number = Vector256.Equals(score, score).AsUInt32();
            var flip = (score.AsInt32() >> 31).AsUInt32() | Vector256.Create(ScoreKey.Sign);
            ((score.AsUInt32() ^ flip) & number).Store(keys + i);
            numbers |= (ulong)number.ExtractMostSignificantBits() << i;
        }

        return ~numbers;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Above(uint* keys, uint bound)
    {
        var (above, bounds) = (0ul, Vector256.Create(bound));
        for (var i = 0; i < IKeyBlock.Count; i += Vector256<uint>.Count)
            above |= (ulong)Vector256.GreaterThan(Vector256.Load(keys + i), bounds).ExtractMostSignificantBits() << i;
        return above;
    }
}
