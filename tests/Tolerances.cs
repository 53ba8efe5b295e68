namespace AuxCore.Tests;

/// <summary>How far each op may be from its reference, in the unit that its documentation promises. One row an op.</summary>
internal static class Tolerances
{
    /// <summary>EmaUpdate: units in the last place of max(|average|, |source|).</summary>
    public const double EmaUpdateUlps = 1;

    /// <summary>ForwardBackwardLoss in float32 and bfloat16: of gradients and loss, relative to their largest parts.</summary>
    public const double ForwardBackwardLossFloat = 2e-6;

    /// <summary>ForwardBackwardLoss in float64: likewise.</summary>
    public const double ForwardBackwardLossDouble = 1e-13;

    /// <summary>
    /// InfoNceLoss in float32 and bfloat16: of gradients, relative to their largest element or 1 / n, and of the loss, relative to it or 1.
    /// </summary>
    public const double InfoNceLossFloat = 1e-5;

    /// <summary>InfoNceLoss in float64: likewise.</summary>
    public const double InfoNceLossDouble = 1e-12;

    /// <summary>The distance of two float32 results in ulps of <paramref name="scale"/>; 0 where both are NaN or equal.</summary>
    public static double Ulps(float actual, float expected, float scale)
    {
        if (actual.Equals(expected) || actual == expected)
            return 0;
        if (!float.IsFinite(actual) || !float.IsFinite(expected))
            return double.PositiveInfinity;
        var ulp = (double)MathF.BitIncrement(MathF.Abs(scale)) - MathF.Abs(scale);
        return Math.Abs((double)actual - expected) / ulp;
    }
}
