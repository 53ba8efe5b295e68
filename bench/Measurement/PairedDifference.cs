namespace AuxCore.Bench.Measurement;

/// <summary>
/// What n paired seeds say about two arms: the mean difference arm − control with its 95 % Student-t interval. Pairs share their seed,
/// hence their data order and their initialisation.
/// </summary>
/// <param name="Seeds">The number of pairs.</param>
/// <param name="Mean">The mean of the differences.</param>
/// <param name="Low">The lower end of the interval; NaN for one seed, which has none.</param>
/// <param name="High">The upper end.</param>
/// <param name="SameSign">Whether all differences are positive, or all are negative.</param>
internal sealed record PairedDifference(int Seeds, double Mean, double Low, double High, bool SameSign)
{
    /// <summary>Compares value i of <paramref name="arm"/> with value i of <paramref name="control"/>.</summary>
    /// <exception cref="ArgumentException">No values, or not equally many.</exception>
    public static PairedDifference Of(ReadOnlySpan<double> arm, ReadOnlySpan<double> control)
    {
        if (arm.IsEmpty || arm.Length != control.Length)
            throw new ArgumentException($"Paired values are needed; there are {arm.Length} and {control.Length}.", nameof(control));

        var differences = new double[arm.Length];
        for (int i = 0; i < arm.Length; i++) differences[i] = arm[i] - control[i];
        int n = differences.Length;
        double mean = differences.Average();
        bool sameSign = differences.All(d => d > 0) || differences.All(d => d < 0);
        if (n == 1) return new(n, mean, double.NaN, double.NaN, sameSign);

        double variance = differences.Sum(d => (d - mean) * (d - mean)) / (n - 1);
        double half = StudentT.TwoSided95(n - 1) * Math.Sqrt(variance / n);
        return new(n, mean, mean - half, mean + half, sameSign);
    }

    /// <summary>
    /// The sentence to print. From four seeds on, "better" and "worse" are said only if the interval excludes 0. Up to three seeds the
    /// interval is too wide to decide anything, and only the signs are reported.
    /// </summary>
    /// <param name="higherIsBetter">Whether the metric is an accuracy (true) or an error (false).</param>
    public string Verdict(bool higherIsBetter = true)
    {
        if (Seeds <= 3) return SameSign ? $"same sign in {Seeds} of {Seeds}" : "signs differ";
        if (!(Low > 0 || High < 0)) return "no difference shown";
        return Mean > 0 == higherIsBetter ? "better" : "worse";
    }
}
