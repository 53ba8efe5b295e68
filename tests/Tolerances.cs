namespace AuxCore.Tests;

/// <summary>How far each op may be from its reference, in the unit that its documentation promises. One row an op.</summary>
internal static class Tolerances
{
    /// <summary>EmaUpdate: units in the last place of max(|average|, |source|).</summary>
    public const double EmaUpdateUlps = 1;

    /// <summary>
    /// AdamWUpdate: units in the last place of what is added up: moment and gradient, its square, parameter and step.
    /// </summary>
    public const double AdamWUpdateUlps = 8;

    /// <summary>GradientNorm: the relative error of the sum of squares.</summary>
    public const double GradientNormRelative = 1e-13;

    /// <summary>
    /// EmaUpdate, averages in bfloat16: units of bfloat16's last place beside the float32 error; half as many to the nearest.
    /// </summary>
    public const double EmaUpdateBFloat16Units = 1;

    /// <summary>ScatterEma: units in the last place of max(|history|, |value|) for each update of an entry.</summary>
    public const double ScatterEmaUlps = 1;

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
