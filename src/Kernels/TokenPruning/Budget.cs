using System.Globalization;

namespace AuxCore.Kernels;

/// <summary>
/// How many tokens of a segment (an image, a sequence) are kept. The tokens are ranked, and a budget names the length of the part that is
/// kept from the top: a fixed number, a share, or one that depends on the scores, so that it differs from segment to segment.
/// </summary>
/// <remarks>
/// The ranking is that of <see cref="TokenSelect"/>. Limits of <see cref="Within"/> hold whatever the rule says, and give way only to the
/// length of the segment and to the tokens that are always kept.
/// </remarks>
public readonly record struct Budget
{
    private Budget(BudgetRule rule, double value, int count, int minimum, int maximum) =>
        (Rule, Value, Tokens, Minimum, Maximum) = (rule, value, count, minimum, maximum);

    internal BudgetRule Rule { get; }

    /// <summary>Ratio, threshold, mass or factor.</summary>
    internal double Value { get; }

    internal int Tokens { get; }

    internal int Minimum { get; }

    internal int Maximum { get; }

    /// <summary>The same number of every segment, each of which must have as many.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is negative.</exception>
    public static Budget Count(int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        return new(BudgetRule.Count, 0, tokens, 0, int.MaxValue);
    }

    /// <summary>A share of the segment's n tokens: ⌊ratio · n + ½⌋ in double.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is NaN or outside [0, 1].</exception>
    public static Budget Ratio(double ratio) => new(BudgetRule.Ratio, Fraction(ratio, nameof(ratio)), 0, 0, int.MaxValue);

    /// <summary>The tokens whose score is at least this; a NaN never is.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is NaN.</exception>
    public static Budget Threshold(float score)
    {
        if (float.IsNaN(score))
            throw new ArgumentOutOfRangeException(nameof(score), score, "A threshold is a number.");
        return new(BudgetRule.Threshold, score, 0, 0, int.MaxValue);
    }

    /// <summary>The fewest tokens whose scores sum up to a share of the sum of all, as in top-p (nucleus) sampling.</summary>
    /// <remarks>
    /// Masses are integers, so that no order of summation matters: ⌊score · 2^(31 − e)⌋, where 2^e ≤ largest score &lt; 2^(e+1). Scores
    /// that are NaN or not above 0 have none. Where a score is +∞, the infinite ones have mass 1 and the others none. Where no token has
    /// mass, none is kept. The mass wanted is ⌈mass · sum⌉ in double.
    /// </remarks>
    /// <exception cref="ArgumentOutOfRangeException">It is NaN or outside [0, 1].</exception>
    public static Budget TopP(double mass) => new(BudgetRule.TopP, Fraction(mass, nameof(mass)), 0, 0, int.MaxValue);

    /// <summary>
    /// The tokens whose score is an outlier, above Q3 + factor · (Q3 − Q1): the adaptive number of PruMerge (Shang et al. 2024,
    /// arXiv 2403.15388), with a factor of 1.5.
    /// </summary>
    /// <remarks>
    /// Quartiles are of the scores that are not NaN, linearly interpolated at (n − 1) / 4 and 3 (n − 1) / 4 in double, as NumPy does by
    /// default. Where infinite scores make the bound NaN, no score is above it.
    /// </remarks>
    /// <exception cref="ArgumentOutOfRangeException">The factor is negative, infinite or NaN.</exception>
    public static Budget Outliers(double factor = 1.5)
    {
        if (!(factor >= 0 && double.IsFinite(factor)))
            throw new ArgumentOutOfRangeException(nameof(factor), factor, "A factor is finite and not negative.");
        return new(BudgetRule.Outliers, factor, 0, 0, int.MaxValue);
    }

    /// <summary>The same rule, with at least and at most so many tokens of each segment.</summary>
    /// <param name="minimum">Fewer are kept only where the segment has fewer.</param>
    /// <param name="maximum">More are kept only where more are always kept.</param>
    /// <exception cref="ArgumentOutOfRangeException">A limit is negative, or the maximum below the minimum.</exception>
    public Budget Within(int minimum = 0, int maximum = int.MaxValue)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(minimum);
        ArgumentOutOfRangeException.ThrowIfLessThan(maximum, minimum);
        return new(Rule, Value, Tokens, minimum, maximum);
    }

    /// <summary>Such as <c>TopP(0.9).Within(16, 256)</c>.</summary>
    public override string ToString()
    {
        var value = Rule == BudgetRule.Count ? Tokens : Value;
        var limits = Minimum == 0 && Maximum == int.MaxValue ? "" : $".Within({Minimum}, {Maximum})";
        return Rule == BudgetRule.None ? "no budget" : string.Create(CultureInfo.InvariantCulture, $"{Rule}({value}){limits}");
    }

    /// <summary>What the rule says of a segment by its length alone; the length itself where it depends on scores.</summary>
    internal int MostOf(int length) => Rule switch
    {
        BudgetRule.Count => Tokens,
        BudgetRule.Ratio => (int)Math.Floor(Value * length + 0.5),
        _ => length,
    };

    /// <summary>The number kept of a segment where the rule says <paramref name="count"/>.</summary>
    internal int Limit(int count, int length, int always) =>
        Math.Max(always, Math.Clamp(count, Math.Min(Minimum, length), Math.Min(Maximum, length)));

    private static double Fraction(double value, string name)
    {
        if (!(value is >= 0 and <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(name, value, $"{name} lies within [0, 1].");
        return value;
    }
}

/// <summary>The kinds of budgets.</summary>
internal enum BudgetRule
{
    None,
    Count,
    Ratio,
    Threshold,
    TopP,
    Outliers,
}
