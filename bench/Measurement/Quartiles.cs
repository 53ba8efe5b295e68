namespace AuxCore.Bench.Measurement;

/// <summary>The median and the quartiles of a sample: what a timing on a busy machine is reported by.</summary>
/// <param name="Median">The 0.5 quantile.</param>
/// <param name="Q1">The 0.25 quantile.</param>
/// <param name="Q3">The 0.75 quantile.</param>
internal readonly record struct Quartiles(double Median, double Q1, double Q3)
{
    /// <summary>
    /// Quantiles of Hyndman and Fan's type 7 (the default of R and NumPy): quantile q of n sorted values lies at the fractional rank
    /// q·(n−1), counted from zero, linearly between its neighbours.
    /// </summary>
    /// <exception cref="ArgumentException"><paramref name="values"/> is empty or holds a NaN.</exception>
    public static Quartiles Of(ReadOnlySpan<double> values)
    {
        if (values.IsEmpty) throw new ArgumentException("Quartiles need at least one value.", nameof(values));
        double[] sorted = values.ToArray();
        if (Array.Exists(sorted, double.IsNaN)) throw new ArgumentException("Quartiles of NaN are not defined.", nameof(values));
        Array.Sort(sorted);
        return new(Quantile(sorted, 0.5), Quantile(sorted, 0.25), Quantile(sorted, 0.75));
    }

    /// <summary>The same quartiles in another unit; <paramref name="factor"/> is positive.</summary>
    public Quartiles Scale(double factor) => new(Median * factor, Q1 * factor, Q3 * factor);

    private static double Quantile(double[] sorted, double q)
    {
        double rank = q * (sorted.Length - 1);
        int below = (int)rank;
        double fraction = rank - below;
        // Not a + f·(b − a): that is NaN between two infinities.
        return fraction == 0 ? sorted[below] : (1 - fraction) * sorted[below] + fraction * sorted[below + 1];
    }
}
