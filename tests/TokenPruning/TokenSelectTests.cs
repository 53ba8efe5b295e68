using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class TokenSelectTests
{
    private const int Canary = -77;

    private static readonly int[][] Segmentations =
    [
        [0], [0, 0], [0, 1], [0, 3, 3, 10], [0, 63], [0, 64], [0, 65, 129], [0, 7, 135, 135, 700], [0, 2047, 4095, 6144], [0, 5000],
    ];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Equals_a_stable_sort_bit_for_bit(Runner runner)
    {
        foreach (var segments in Segmentations)
        {
            for (var seed = 0; seed < 4; seed++)
            {
                var scores = RandomScores.Of(segments[^1], seed);
                foreach (var ratio in (double[])[0, 0.11, 0.5, 0.77, 1])
                {
                    Check<float>(runner, scores, segments, Budget.Ratio(ratio), seed);
                    Check<BFloat16>(runner, scores, segments, Budget.Ratio(ratio), seed);
                    Check<Half>(runner, scores, segments, Budget.Ratio(ratio), seed);
                }

                foreach (var threshold in (float[])[0, -0f, 0.25f, -0.5f, float.NegativeInfinity, float.PositiveInfinity])
                    Check<float>(runner, scores, segments, Budget.Threshold(threshold), seed);
                foreach (var mass in (double[])[0, 0.3, 0.9, 1])
                    Check<Half>(runner, scores, segments, Budget.TopP(mass), seed);
                foreach (var factor in (double[])[0, 1.5])
                    Check<float>(runner, scores, segments, Budget.Outliers(factor), seed);
                Check<float>(runner, scores, segments, Budget.Threshold(0.25f).Within(2, 9), seed);
                Check<BFloat16>(runner, scores, segments, Budget.TopP(0.5).Within(3, 40), seed);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Every_count_from_none_to_all_is_a_beginning_of_the_order(Runner runner)
    {
        foreach (var length in (int[])[1, 5, 64, 100])
        {
            for (var seed = 0; seed < 4; seed++)
            {
                for (var count = 0; count <= length; count++)
                    Check<float>(runner, RandomScores.Of(length, seed), [0, length], Budget.Count(count), seed);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Long_segments_of_few_values_and_sorted_ones_are_no_exception(Runner runner)
    {
        const int Length = 20_001;
        float[][] all =
        [
            [.. Enumerable.Repeat(0.5f, Length)], [.. Enumerable.Range(0, Length).Select(i => (float)i)],
            [.. Enumerable.Range(0, Length).Select(i => (float)-i)], [.. Enumerable.Range(0, Length).Select(i => (float)(i % 3))],
            [.. Enumerable.Range(0, Length).Select(i => i % 78 == 0 ? 1f : -i)], // every sample is 1, or nearly so
            [.. Enumerable.Repeat(float.NaN, Length)], RandomScores.Of(Length, 1), RandomScores.Of(Length, 3),
        ];
        foreach (var scores in all)
        {
            foreach (var count in (int[])[0, 1, 2223, Length / 2, Length - 1, Length])
                Check<float>(runner, scores, [0, Length], Budget.Count(count), 1);
            Check<float>(runner, scores, [0, Length], Budget.TopP(0.5), 1);
            Check<float>(runner, scores, [0, Length], Budget.Outliers(), 1);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Many_segments_are_shared_by_threads(Runner runner)
    {
        var random = new Random(5);
        int[] lengths = [.. Enumerable.Range(0, 200).Select(_ => random.Next(5) == 0 ? 0 : random.Next(1200))];
        int[] segments = [0, .. lengths.Select((_, b) => lengths[..(b + 1)].Sum())];
        Check<float>(runner, RandomScores.Of(segments[^1], 0), segments, Budget.Ratio(0.25).Within(4, 100), 3);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void NaN_is_last_and_counted_zeros_are_equal_and_ties_go_to_the_lower_index(Runner runner)
    {
        float[] scores = [float.NaN, -0f, 0f, float.NegativeInfinity, -0f, float.NaN];
        int[] segments = [0, 3, 6];

        foreach (var (count, kept) in ((int, int[])[])[(0, []), (1, [1, 4]), (2, [1, 2, 3, 4]), (3, [0, 1, 2, 3, 4, 5])])
        {
            var (indices, offsets, counts) = (new int[2 * count], new int[3], new int[2]);
            runner.Run(backend => TokenSelect.Run(
                scores, segments, Budget.Count(count), new() { Indices = indices, Offsets = offsets, NaNCounts = counts },
                backend: backend));
            Assert.Equal(kept, indices);
            Assert.Equal([0, count, 2 * count], offsets);
            Assert.Equal([1, 1], counts);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Outliers_are_above_the_quartiles_as_NumPy_has_them(Runner runner)
    {
        // NumPy: quartiles of 1 … 9, 100 are 3.25 and 7.75, the bound is 14.5; of 1 … 5 they are 2 and 4, the bound with factor ½ is 5.
        Assert.Equal([9], Run(runner, [1, 2, 3, 4, 5, 6, 7, 8, 9, 100], Budget.Outliers()));
        Assert.Equal([], Run(runner, [1, 2, 3, 4, 5], Budget.Outliers(0.5)));
        Assert.Equal([4], Run(runner, [1, 2, 3, 4, 5.0001f], Budget.Outliers(0.5)));
        Assert.Equal([0], Run(runner, [100, float.NaN, 1, 2, 3, float.NaN, 4, 5, 6, 7, 8, 9], Budget.Outliers()));
        Assert.Equal([], Run(runner, [float.PositiveInfinity, float.PositiveInfinity, 1], Budget.Outliers()));
        Assert.Equal([2], Run(runner, [0, 0, float.PositiveInfinity, 0, 0, 0, 0], Budget.Outliers()));
        Assert.Equal([], Run(runner, [float.NaN], Budget.Outliers()));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Mass_is_reached_by_the_fewest_tokens(Runner runner)
    {
        float[] scores = [0.125f, 0.5f, 0.25f, 0.125f, -3, float.NaN]; // masses are exact, their sum is 1
        foreach (var (mass, kept) in ((double, int[])[])
            [(0, []), (0.5, [1]), (0.500001, [1, 2]), (0.75, [1, 2]), (0.8, [0, 1, 2]), (0.9, [0, 1, 2, 3]), (1, [0, 1, 2, 3])])
            Assert.Equal(kept, Run(runner, scores, Budget.TopP(mass)));
        Assert.Equal([0], Run(runner, [float.PositiveInfinity, 5, float.PositiveInfinity], Budget.TopP(0.5)));
        Assert.Equal([], Run(runner, [-1, 0, float.NaN], Budget.TopP(1)));
        Assert.Equal([1], Run(runner, [-1, 0, float.NaN], Budget.TopP(1).Within(minimum: 1)));
        Assert.Equal([0, 1], Run(runner, [float.Epsilon, float.Epsilon], Budget.TopP(0.9)));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void What_is_always_kept_counts_towards_the_budget_and_exceeds_it_if_it_must(Runner runner)
    {
        float[] scores = [9, 1, 8, float.NaN, 7];
        bool[] always = [false, true, false, true, false];
        foreach (var (budget, kept) in ((Budget, int[])[])
            [(Budget.Count(1), [1, 3]), (Budget.Count(2), [1, 3]), (Budget.Count(3), [0, 1, 3]), (Budget.Threshold(8), [0, 1, 2, 3]),
                (Budget.Ratio(1).Within(maximum: 1), [1, 3]), (Budget.TopP(0.01), [1, 3]), (Budget.TopP(0.05), [0, 1, 3]),
                (Budget.Outliers(0.1), [0, 1, 3]), (Budget.Outliers(1), [1, 3])])
        {
            Assert.Equal(kept, Run(runner, scores, budget, always));
            Assert.True(TokenSelect.Capacity([0, 5], budget, always) >= kept.Length);
        }

        Assert.Equal(2, TokenSelect.Capacity([0, 5], Budget.Count(1), always));
    }

    [Fact]
    public void Indices_and_slots_are_inverse_and_a_larger_budget_keeps_what_a_smaller_one_keeps() => Gen
        .Select(Gen.Int[0, 300].Array[1, 5], Gen.Int[0, 999], Gen.Double[0, 1], Gen.Double[0, 1])
        .Sample((lengths, seed, one, other) =>
        {
            int[] segments = [0, .. lengths.Select((_, b) => lengths[..(b + 1)].Sum())];
            var scores = RandomScores.Of(segments[^1], seed);
            var (fewer, slots) = Select(scores, segments, Budget.Ratio(Math.Min(one, other)));
            var (more, _) = Select(scores, segments, Budget.Ratio(Math.Max(one, other)));
            return fewer.All(more.Contains) && fewer.Order().SequenceEqual(fewer)
                && fewer.Select((token, place) => slots[token] == place).All(right => right)
                && slots.Count(slot => slot >= 0) == fewer.Length;
        });

    [Fact]
    public void Shuffling_the_segments_shuffles_the_selection() => Gen.Select(Gen.Int[1, 90], Gen.Int[0, 999], Gen.Double[0, 1]).Sample(
        (length, seed, mass) =>
        {
            var (a, b) = (RandomScores.Of(length, seed), RandomScores.Of(length, seed + 1));
            var (together, _) = Select([.. a, .. b], [0, length, 2 * length], Budget.TopP(mass));
            var (swapped, _) = Select([.. b, .. a], [0, length, 2 * length], Budget.TopP(mass));
            return together.Select(token => (token + length) % (2 * length)).Order().SequenceEqual(swapped);
        });

    private static (int[] Kept, int[] Slots) Select(float[] scores, int[] segments, Budget budget)
    {
        var (indices, offsets, slots) = (new int[TokenSelect.Capacity(segments, budget)], new int[segments.Length], new int[scores.Length]);
        var kept = TokenSelect.Run(scores, segments, budget, new() { Indices = indices, Offsets = offsets, Slots = slots });
        return (indices[..kept], slots);
    }

    private static int[] Run(Runner runner, float[] scores, Budget budget, bool[]? always = null)
    {
        var (indices, offsets) = (new int[scores.Length], new int[2]);
        runner.Run(backend => TokenSelect.Run(
            scores, [0, scores.Length], budget, new() { Indices = indices, Offsets = offsets }, always, backend));
        return indices[..offsets[1]];
    }

    /// <summary>Holds a selection against LINQ's stable sort, for a view that is not aligned, with a canary behind each output.</summary>
    private static void Check<T>(Runner runner, float[] given, int[] segments, Budget budget, int seed) where T : unmanaged
    {
        var (stored, scores) = RandomScores.As<T>(given);
        T[] padded = [default, .. stored];
        bool[] always = seed % 2 == 0 ? [] : [.. scores.Select((_, i) => i % 37 == seed)];
        var capacity = TokenSelect.Capacity(segments, budget, always);
        int[] indices = [.. Enumerable.Repeat(Canary, capacity + 1)], slots = [.. Enumerable.Repeat(Canary, scores.Length + 1)];
        var (offsets, counts, kept) = (new int[segments.Length], new int[segments.Length - 1], -1);

        runner.Run(backend =>
        {
            var selection = new Selection
            {
                Indices = indices.AsSpan(0, capacity),
                Offsets = offsets,
                Slots = slots.AsSpan(0, scores.Length),
                NaNCounts = counts,
            };
            kept = padded switch
            {
                float[] s => TokenSelect.Run(s.AsSpan(1), segments, budget, selection, always, backend),
                BFloat16[] s => TokenSelect.Run(s.AsSpan(1), segments, budget, selection, always, backend),
                Half[] s => TokenSelect.Run(s.AsSpan(1), segments, budget, selection, always, backend),
                _ => throw new InvalidOperationException(),
            };
        });

        List<int> expected = [];
        for (var b = 0; b + 1 < segments.Length; b++)
        {
            Assert.Equal(expected.Count, offsets[b]);
            int[] tokens = [.. Enumerable.Range(segments[b], segments[b + 1] - segments[b])];
            bool Always(int token) => always.Length > 0 && always[token];
            int[] ranked = [.. tokens.OrderByDescending(Always).ThenByDescending(token => Always(token) ? 0 : scores[token])];
            var count = Math.Max(tokens.Count(Always), ExpectedCount(ranked, scores, Always, budget));
            expected.AddRange(ranked[..count].Order());
            Assert.Equal(tokens.Count(token => float.IsNaN(scores[token])), counts[b]);
        }

        Assert.Equal(expected.Count, kept);
        Assert.Equal(kept, offsets[^1]);
        Assert.Equal(expected, indices[..kept]);
        Assert.All(indices[kept..], index => Assert.Equal(Canary, index));
        var inverse = new int[scores.Length];
        Array.Fill(inverse, -1);
        for (var place = 0; place < kept; place++)
            inverse[expected[place]] = place;
        Assert.Equal([.. inverse, Canary], slots);
    }

    // The rules once more, from the words of Budget's documentation.
    private static int ExpectedCount(int[] ranked, float[] scores, Func<int, bool> always, Budget budget)
    {
        var count = budget.Rule switch
        {
            BudgetRule.Count => budget.Tokens,
            BudgetRule.Ratio => (int)Math.Floor(budget.Value * ranked.Length + 0.5),
            BudgetRule.Threshold => ranked.Count(token => always(token) || scores[token] >= budget.Value),
            BudgetRule.TopP => MassCount(ranked, scores, budget.Value),
            _ => Above(Bound([.. ranked.Select(token => scores[token])], budget.Value)),
        };
        return Math.Clamp(count, Math.Min(budget.Minimum, ranked.Length), Math.Min(budget.Maximum, ranked.Length));

        int Above(double bound) => ranked.Count(token => always(token) || scores[token] > bound);
    }

    private static int MassCount(int[] ranked, float[] scores, double share)
    {
        var largest = ranked.Select(token => scores[token]).Where(score => score > 0).DefaultIfEmpty(0).Max();
        var unit = largest > 0 && float.IsFinite(largest) ? Math.Pow(2, 31 - Math.Floor(Math.Log2(largest))) : 0;
        long[] masses = [.. ranked.Select(token =>
            float.IsPositiveInfinity(largest) ? (float.IsPositiveInfinity(scores[token]) ? 1 : 0)
            : scores[token] > 0 ? (long)Math.Floor(scores[token] * unit) : 0)];
        var wanted = share == 1 ? masses.Sum() : (long)Math.Ceiling(share * masses.Sum());
        var (count, reached) = (0, 0L);
        while (reached < wanted)
            reached += masses[count++];
        return count;
    }

    private static double Bound(float[] scores, double factor)
    {
        double[] sorted = [.. scores.Where(score => !float.IsNaN(score)).Select(score => (double)score).Order()];
        if (sorted.Length == 0)
            return double.NaN;
        double At(double share)
        {
            var place = share * (sorted.Length - 1);
            var (below, above) = (sorted[(int)Math.Floor(place)], sorted[(int)Math.Ceiling(place)]);
            return below == above ? below : below + (above - below) * (place - Math.Floor(place));
        }

        return At(0.75) + factor * (At(0.75) - At(0.25));
    }
}
