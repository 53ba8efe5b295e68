namespace AuxCore.Kernels;

/// <summary>How <see cref="KvEvict"/> makes a choice of scores.</summary>
public sealed class KvEvictOptions
{
    /// <summary>
    /// How many positions of a head are kept, those that are always kept among them. Left out where counts of each head are given.
    /// </summary>
    public Budget Budget { get; init; }

    /// <summary>
    /// The width of the mean that scores are smoothed by, odd: 5 in SnapKV; 1 for none. It goes over the positions before
    /// <see cref="Recent"/>, with zeros around them.
    /// </summary>
    public int PoolWidth { get; init; } = 1;

    /// <summary>How many of the first positions are always kept: the attention sinks of StreamingLLM (Xiao et al. 2023).</summary>
    public int Sinks { get; init; }

    /// <summary>How many of the last positions are always kept: a window of recent tokens.</summary>
    public int Recent { get; init; }

    /// <summary>
    /// Null where each head keeps its own budget. Otherwise the heads of a sequence share the sum of theirs, so that it goes to the
    /// greatest scores of all, but for this share of each head's budget, which the head keeps: AdaKV (Feng et al. 2024, arXiv
    /// 2407.11550), with 0.2. Within 0 and 1; for <see cref="Budget.Count"/>, <see cref="Budget.Ratio"/> and counts of each head.
    /// </summary>
    public double? HeadFloor { get; init; }

    internal static void Check(KvEvictOptions options, bool hasCounts)
    {
        var budget = options.Budget;
        if (!hasCounts && budget.Rule == BudgetRule.None)
        {
            throw new ArgumentException(
                "options.Budget: a default value; make one by Budget.Count, Ratio, Threshold or others, or pass counts", nameof(options));
        }

        if (hasCounts && budget.Rule != BudgetRule.None)
        {
            throw new ArgumentException(
                $"options.Budget: {budget}, but counts say how many each head keeps; leave one of them out", nameof(options));
        }

        if (options.PoolWidth < 1 || options.PoolWidth % 2 == 0)
            throw new ArgumentOutOfRangeException(nameof(options), options.PoolWidth, "options.PoolWidth is odd and at least 1.");
        if (options.Sinks < 0)
            throw new ArgumentOutOfRangeException(nameof(options), options.Sinks, "options.Sinks is not negative.");
        if (options.Recent < 0)
            throw new ArgumentOutOfRangeException(nameof(options), options.Recent, "options.Recent is not negative.");
        if (options.HeadFloor is not { } floor)
            return;
        if (!(floor is >= 0 and <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(options), floor, "options.HeadFloor lies within 0 and 1.");
        if (!hasCounts && budget.Rule is not (BudgetRule.Count or BudgetRule.Ratio))
            throw new ArgumentException($"options.HeadFloor: heads share a Budget.Count or Ratio, not {budget}", nameof(options));
    }

    /// <summary>How many a head of this length keeps, where that is known without scores.</summary>
    internal int Keep(int length) => Budget.Limit(Math.Min(Budget.MostOf(length), length), length, Always(length));

    /// <summary>How many positions a head of this length keeps whatever their scores.</summary>
    internal int Always(int length) => (int)Math.Min(length, (long)Sinks + Recent);
}
