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

    /// <summary>IndicatorTd's gradient: units in the last place of (|Q| + |γ Q̄| + 1) / (B T).</summary>
    public const double IndicatorTdUlps = 2;

    /// <summary>IndicatorTd's losses and mean errors, relative to max(1, value): errors are rounded to float32, sums are not.</summary>
    public const double IndicatorTdRelative = 1e-6;

    /// <summary>IndicatorCalibration's loss, relative: its terms are rounded to float32, none is negative. Thresholds, bits and counts are
    /// exact.</summary>
    public const double IndicatorCalibrationRelative = 3e-7;

    /// <summary>TabularTd, absolute, for tables of values up to 2 with step sizes of 0.1 and more: a step rounds by an ulp, and later ones
    /// shrink that by 1 − α.</summary>
    public const double TabularTdAbsolute = 3e-6;

    /// <summary>PvnHead, relative to the largest term of a sum times the number of terms, or to 1 + loss: sums of up to 600 products in
    /// float32.</summary>
    public const double PvnHeadRelative = 2e-6;

    /// <summary>SuccessorSweep, absolute, for tables of values up to 2 and a few sweeps: a few ulps each.</summary>
    public const double SuccessorSweepAbsolute = 2e-6;

    /// <summary>SuccessorSolve, relative to 1 / (1 − γ), the sum of a row.</summary>
    public const double SuccessorSolveRelative = 1e-12;

    /// <summary>TokenSelect: entries that differ. Its order is total, so every backend gives the same bits.</summary>
    public const int TokenSelectEntries = 0;

    /// <summary>TokenCompact: bytes that differ. It copies.</summary>
    public const int TokenCompactBytes = 0;

    /// <summary>TokenScores, relative to the score plus the largest one: logits are rounded to float32.</summary>
    public const double TokenScoresRelative = 4e-6;

    /// <summary>TokenPool, absolute, for values up to 1 and cells of up to 81 tokens, beside the rounding to 16 bits.</summary>
    public const double TokenPoolAbsolute = 1e-6;

    /// <summary>TokenMerge, absolute, for values up to 1 and slots of up to 40 tokens, beside the rounding to 16 bits.</summary>
    public const double TokenMergeAbsolute = 1e-6;

    /// <summary>TokenDiversity: tokens that differ, where similarities are not within a rounding of each other.</summary>
    public const int TokenDiversityTokens = 0;

    /// <summary>KeyRerotate, absolute, for elements up to 1: cosines, sines, products and the sum are rounded to float32.</summary>
    public const double KeyRerotateAbsolute = 5e-7;

    /// <summary>KvQuantise: bytes and restored numbers are exact.</summary>
    public const double KvQuantiseBytes = 0;

    /// <summary>
    /// KvAppend, relative to the greatest element of a head: a norm, a rotation and their products in float32. What a format makes of the
    /// row, and copies, are exact.
    /// </summary>
    public const double KvAppendRelative = 5e-7;

    /// <summary>KvPredictWrite, relative to the greatest element of a head: as KvAppend, with a bias before.</summary>
    public const double KvPredictWriteRelative = 5e-7;

    /// <summary>KvWindowScores, relative to the greatest score of a head: exponentials and sums in float32.</summary>
    public const double KvWindowScoresRelative = 1e-5;

    /// <summary>KvEvict: what is kept is exact.</summary>
    public const double KvEvictRows = 0;

    /// <summary>KvDecodeAttention, relative to the greatest element: sums in float32 of numbers that are restored exactly.</summary>
    public const double KvDecodeAttentionRelative = 1e-5;

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
