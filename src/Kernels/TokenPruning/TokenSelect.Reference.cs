namespace AuxCore.Kernels;

public static partial class TokenSelect
{
    /// <summary>Each segment sorted by the order of the class's remarks; the budget keeps a beginning of it.</summary>
    internal static unsafe void RunReference(TokenSelectWork work)
    {
        var kept = 0;
        work.Offsets[0] = 0;
        for (var b = 0; b < work.Segments; b++)
        {
            var (from, length) = (work.Bounds[b], work.Bounds[b + 1] - work.Bounds[b]);
            int[] order = [.. Enumerable.Range(from, length)];
            Array.Sort(order, (left, right) => Compare(work, left, right));
            var budget = work.BudgetOf(b);
            var count = budget.Limit(ReferenceCount(work, budget, order), length, order.Count(token => work.IsAlways(token)));
            var chosen = order[..count];
            Array.Sort(chosen);
            if (work.Slots != null)
                new Span<int>(work.Slots + from, length).Fill(-1);
            foreach (var token in chosen)
            {
                if (work.Slots != null)
                    work.Slots[token] = kept;
                work.Indices[kept++] = token;
            }

            work.Offsets[b + 1] = kept;
            if (work.NaNCounts != null)
                work.NaNCounts[b] = order.Count(token => float.IsNaN(work.ScoreAt(token)));
        }
    }

    // Negative where the left token ranks above the right one.
    private static int Compare(in TokenSelectWork work, int left, int right)
    {
        var (leftAlways, rightAlways) = (work.IsAlways(left), work.IsAlways(right));
        if (leftAlways != rightAlways)
            return leftAlways ? -1 : 1;
        var (a, b) = (work.ScoreAt(left), work.ScoreAt(right));
        if (!leftAlways && float.IsNaN(a) != float.IsNaN(b))
            return float.IsNaN(b) ? -1 : 1;
        return !leftAlways && a > b ? -1 : !leftAlways && a < b ? 1 : left.CompareTo(right);
    }

    /// <summary>What the rule says of a ranked segment, before its limits.</summary>
    private static int ReferenceCount(TokenSelectWork work, Budget budget, int[] order)
    {
        switch (budget.Rule)
        {
            case BudgetRule.Threshold:
                return order.Count(token => work.IsAlways(token) || work.ScoreAt(token) >= budget.Value);
            case BudgetRule.TopP:
                return ReferenceTopP(work, order);
            case BudgetRule.Outliers:
                double[] ascending = [.. order.Select(token => (double)work.ScoreAt(token)).Where(score => !double.IsNaN(score)).Order()];
                var (first, third) = (Quartile(ascending, 1), Quartile(ascending, 3));
                var bound = third + budget.Value * (third - first);
                return order.Count(token => work.IsAlways(token) || work.ScoreAt(token) > bound);
            default:
                return budget.MostOf(order.Length);
        }
    }

    private static int ReferenceTopP(TokenSelectWork work, int[] order)
    {
        var mass = new TokenMass(order.Select(token => work.ScoreAt(token)).Where(score => score > 0).DefaultIfEmpty().Max());
        var sum = order.Aggregate(0ul, (sum, token) => sum + mass.Of(work.ScoreAt(token)));
        var wanted = TokenMass.Wanted(work.Budget.Value, sum);
        var count = 0;
        for (var reached = 0ul; reached < wanted; count++)
            reached += mass.Of(work.ScoreAt(order[count]));
        return count;
    }

    /// <summary>Linear between the two nearest ranks; NaN where there is no score.</summary>
    private static double Quartile(double[] ascending, int quarters)
    {
        if (ascending.Length == 0)
            return double.NaN;
        var place = QuartilePlace.Of(ascending.Length, quarters);
        return place.Between(ascending[place.Below], ascending[place.Above]);
    }

    /// <summary>Where a quartile of n ascending values lies: between two of them, at a multiple of ¼.</summary>
    private readonly record struct QuartilePlace(int Below, int Above, double Fraction)
    {
        public static QuartilePlace Of(int count, int quarters)
        {
            var at = (count - 1L) * quarters;
            return new((int)(at / 4), (int)((at + 3) / 4), at % 4 / 4.0);
        }

        public double Between(double below, double above) => below == above ? below : below + (above - below) * Fraction;
    }
}
