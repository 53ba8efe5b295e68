using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// How an update rounds averages that are stored in bfloat16; float32 averages need none. The update itself is computed in float32.
/// </summary>
/// <remarks>
/// <para>bfloat16 keeps eight bits. Rounded to the nearest, an average stands still as soon as a step is less than half a unit of its last
/// place: with β = 0.999 that is most of the time. Rounded at random, up or down with the probability that keeps the mean, it follows, with
/// noise of the size of that unit.</para>
/// <para>The random bits of element i of tensor t of average k are bits 16·(i mod 8) and up, 16 of them, of the 128 that Philox4x32-10
/// gives for the counter (⌊i/8⌋, t, step mod 2^32, ⌊step/2^32⌋) and the key seed + k. They are added to the float32's lower half, of which
/// the upper half is kept. So results do not depend on the number of threads, the vector width or the backend, several averages in one call
/// equal calls of their own with the seeds seed + k, and a tensor cut out of a group equals itself with its number as the first tensor.
/// A NaN becomes quiet; infinities stay; a value beyond the largest bfloat16 may become infinite.</para>
/// </remarks>
public readonly struct EmaRounding
{
    /// <summary>Above this decay, and below 1, rounding to the nearest is refused unless forced.</summary>
    internal const double LargestNearestDecay = 0.99;

    // One word of the counter holds the block of eight: so many elements a tensor.
    internal const long MostElements = 8L << 32;

    private EmaRounding(RoundingKind kind, ulong seed = 0, long step = 0, int firstTensor = 0)
    {
        Kind = kind;
        Seed = seed;
        Step = step;
        FirstTensor = firstTensor;
    }

    /// <summary>Up or down at random, with the probabilities that keep the mean.</summary>
    /// <param name="seed">Any number; the same all through a training.</param>
    /// <param name="step">The number of the update: another one each time.</param>
    /// <param name="firstTensor">The number of the first tensor of the call, where a group is updated piece by piece.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="step"/> or <paramref name="firstTensor"/> is negative.</exception>
    public static EmaRounding Stochastic(ulong seed, long step, int firstTensor = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(step);
        ArgumentOutOfRangeException.ThrowIfNegative(firstTensor);
        return new(RoundingKind.Stochastic, seed, step, firstTensor);
    }

    /// <summary>To the nearest, ties to even: for comparisons, and for decays so small that the average does not stand still.</summary>
    /// <param name="force">Whether decays above 0.99 are taken, with which the average hardly moves.</param>
    public static EmaRounding Nearest(bool force = false) => new(force ? RoundingKind.NearestForced : RoundingKind.Nearest);

    internal bool IsStochastic => Kind == RoundingKind.Stochastic;

    private RoundingKind Kind { get; }

    internal ulong Seed { get; }

    internal long Step { get; }

    internal int FirstTensor { get; }

    /// <summary>Checks that averages in bfloat16 may be rounded in this way with a decay.</summary>
    /// <param name="rounding">What the caller gave.</param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="decayName">What messages call it.</param>
    /// <param name="average">The average, as messages call it.</param>
    internal static void Require(EmaRounding rounding, double decay, string decayName, string average)
    {
        if (rounding.Kind == RoundingKind.None)
            throw new ArgumentException(
                $"rounding: {average} is bfloat16; pass {nameof(EmaRounding)}.{nameof(Stochastic)}(seed, step)", nameof(rounding));
        if (rounding.Kind == RoundingKind.Nearest && decay is > LargestNearestDecay and < 1)
            throw new ArgumentOutOfRangeException(decayName, decay, NearestStalls(average));
    }

    internal static string NearestStalls(string average) =>
        $"{average} is bfloat16: rounded to the nearest it stands still at decays above {LargestNearestDecay.ToString("R",
            System.Globalization.CultureInfo.InvariantCulture)}; round stochastically, or force it";

    /// <summary>The random bits of consecutive elements of one tensor.</summary>
    /// <param name="scratch">Room for two words of 64 bits for each block of eight elements, and one block more.</param>
    /// <param name="average">The number of the average.</param>
    /// <param name="tensor">The number of the tensor within the call.</param>
    /// <param name="element">The first element.</param>
    /// <param name="count">How many.</param>
    /// <returns>The bits of the first element, in <paramref name="scratch"/>; those of the others follow.</returns>
    internal unsafe ushort* Bits(ulong* scratch, int average, int tensor, long element, int count)
    {
        var (first, last) = (element / 8, (element + count + 7) / 8);
        Philox.Fill(
            scratch, (int)(last - first), (uint)first, (uint)(FirstTensor + tensor), (uint)Step, (uint)(Step >> 32), Seed + (ulong)average);
        return (ushort*)scratch + (element - 8 * first);
    }

    /// <summary>One element: what the vectorised loops do to each.</summary>
    internal BFloat16 Round(float value, int average, int tensor, long element)
    {
        if (!IsStochastic)
            return (BFloat16)value;
        var (low, high) = Philox.Block(
            (uint)(element / 8), (uint)(FirstTensor + tensor), (uint)Step, (uint)(Step >> 32), Seed + (ulong)average);
        var piece = (int)(element % 8);
        return Round(value, (ushort)((piece < 4 ? low : high) >> (16 * (piece % 4))));
    }

    /// <summary>Adds 16 random bits below the place that is kept.</summary>
    internal static BFloat16 Round(float value, ushort bits) =>
        float.IsNaN(value) ? (BFloat16)value : BFloat16.FromBits((ushort)((BitConverter.SingleToUInt32Bits(value) + bits) >> 16));

    private enum RoundingKind
    {
        None,
        Stochastic,
        Nearest,
        NearestForced,
    }
}
