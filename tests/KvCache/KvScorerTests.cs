using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests;

/// <summary>
/// Each rule against its naive reference. Scores are float32, those of the reference double: where two tokens are exchanged, the
/// reference's scores of both must be equal but for rounding, and where the reference has a tie, the earlier token wins.
/// </summary>
[RequiresLibtorch]
public sealed class KvScorerTests
{
    private const int Cases = 1000;
    private const double RotaryBase = 100;

    public static TheoryData<string> Rules =>
        ["StreamingLlm", "KNorm", "KeyDiff", "CurDkv", "Tova", "SnapKv", "H2O", "ExpectedAttention", "LagKv"];

    [Theory]
    [MemberData(nameof(Rules))]
    public void The_kept_tokens_are_those_of_a_naive_reference(string rule)
    {
        using var scope = torch.NewDisposeScope();
        var exchanged = 0;
        for (var seed = 0; seed < Cases; seed++)
        {
            var naive = new NaiveScores(seed);
            var (scorer, reference) = Of(rule, naive);
            var scores = ScoresOf(scorer, naive);
            var budget = 1 + seed % naive.Length;
            var kept = Kept(scores, [.. Enumerable.Repeat(budget, naive.Heads)]);
            for (var head = 0; head < naive.Heads; head++)
            {
                var wanted = NaiveScores.Best(reference(head), budget);
                exchanged += Same(wanted, kept[head], reference(head), $"{rule}, case {seed}, head {head}");
            }
        }

        Assert.InRange(exchanged, 0, Cases / 100); // two keys, for one, are equally unlike their mean, but for rounding
    }

    [Theory]
    [InlineData("KNorm")]
    [InlineData("SnapKv")]
    public void Heads_compete_for_the_sum_of_their_budgets_above_a_floor(string rule)
    {
        using var scope = torch.NewDisposeScope();
        var (exchanged, ragged) = (0, 0);
        for (var seed = 0; seed < Cases; seed++)
        {
            var naive = new NaiveScores(seed);
            var (inner, reference) = Of(rule, naive);
            var scorer = new AdaKv(inner, floor: 0.2);
            var budget = 1 + seed % naive.Length;
            var kept = Kept(ScoresOf(scorer, naive), [.. Enumerable.Repeat(budget, naive.Heads)], scorer.Allocation.Floor);

            // The floor first, then the best of all heads.
            var all = Enumerable.Range(0, naive.Heads).SelectMany(head =>
            {
                var own = reference(head);
                var safe = NaiveScores.Best(own, (int)(0.2 * budget)).ToHashSet();
                return own.Select((score, i) => safe.Contains(i) ? double.MaxValue : Math.Min(score, 1e300));
            }).ToArray();
            var wanted = NaiveScores.Best(all, budget * naive.Heads);
            int[] got = [.. kept.SelectMany((slots, head) => slots.Select(slot => head * naive.Length + slot))];
            exchanged += Same(wanted, got, all, $"{rule}, case {seed}");
            Assert.All(kept, slots => Assert.True(slots.Length >= (int)(0.2 * budget)));
            ragged += kept.Any(slots => slots.Length != budget) ? 1 : 0;
        }

        Assert.InRange(exchanged, 0, Cases / 100);
        Assert.True(ragged > Cases / 4);
    }

    [Fact]
    public void Ties_are_won_by_the_earlier_token_and_the_lower_head()
    {
        float[][] scores = [[1, 1, 0, 1], [1, 2, 1, float.NaN]];
        Assert.Equal([[0, 1], [0, 1]], Kept(scores, [2, 2]));
        Assert.Equal([[0, 1, 2, 3], []], Kept(scores, [9, 0]));
        Assert.Equal([[0, 1], [1]], Kept(scores, [2, 1], floor: 0));
        Assert.Equal([[0], [0, 1]], Kept(scores, [1, 2], floor: 1));
        Assert.Equal([[0, 1, 2, 3], [0, 1]], Kept(scores, [6, 0], floor: 1)); // what a head cannot keep, the other does
    }

    [Fact]
    public void Budgets_are_as_documented()
    {
        Assert.Equal(512, KvBudget.Tokens(512).Keep(Place(0, 10_000)));
        Assert.Equal(250, KvBudget.Ratio(0.25).Keep(Place(3, 1000)));
        Assert.Equal(1, KvBudget.Ratio(0.001).Keep(Place(0, 10)));
        Assert.Equal([7, 9], new[] { 0, 1 }.Select(head => KvBudget.PerHead(7, 9).Keep(new(0, 4, head, 2, 100, 100))));
        var pyramid = KvBudget.Pyramid(512, window: 64);
        Assert.Equal(64 + 896 - 22, pyramid.Keep(Place(0, 10_000)));
        Assert.Equal(64 + 22, pyramid.Keep(Place(3, 10_000)));
        Assert.InRange(Enumerable.Range(0, 4).Average(layer => pyramid.Keep(Place(layer, 10_000))), 510, 513);
        Assert.Equal(600, pyramid.Keep(Place(0, 600)));       // more than there is
        Assert.Equal(64 + 360, pyramid.Keep(Place(3, 600)));  // which the others make up for
        Assert.Equal(512, pyramid.Keep(Place(2, 512)));

        Assert.Throws<ArgumentOutOfRangeException>(() => KvBudget.Tokens(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => KvBudget.Ratio(double.NaN));
        Assert.Throws<ArgumentOutOfRangeException>(() => KvBudget.Ratio(1.5));
        Assert.Throws<ArgumentOutOfRangeException>(() => KvBudget.Pyramid(64, 64));
        Assert.Throws<ArgumentOutOfRangeException>(() => KvBudget.PerHead(1, 0));
        Assert.Throws<ArgumentException>(() => KvBudget.PerHead());
        Assert.Contains("3 numbers", Assert.Throws<ArgumentException>(
            () => KvBudget.PerHead(1, 2, 3).Keep(Place(0, 10))).Message, StringComparison.Ordinal);

        static KvHeadPlace Place(int layer, int seen) => new(layer, 4, 0, 2, seen, seen);
    }

    [Fact]
    public void Parameters_out_of_range_are_refused_by_name()
    {
        Refused("sinks", () => new StreamingLlm(-1));
        Refused("window", () => new SnapKv(0));
        Refused("kernel", () => new SnapKv(4, 2));
        Refused("recent", () => new H2O(-1));
        Refused("futurePositions", () => new ExpectedAttention(0));
        Refused("lag", () => new LagKv(0));
        Refused("window", () => new CurDkv(0));
        Refused("floor", () => new AdaKv(new KNorm(), 1.1));
        Assert.Throws<ArgumentNullException>(() => new AdaKv(null!));

        static void Refused(string name, Func<object> make) =>
            Assert.Equal(name, Assert.Throws<ArgumentOutOfRangeException>(make).ParamName);
    }

    [Fact]
    public void Degenerate_keys_and_values_score_without_NaN()
    {
        using var scope = torch.NewDisposeScope();
        var naive = new NaiveScores(17);
        Array.Clear(naive.Keys);
        Array.Clear(naive.Values);
        foreach (var rule in Rules.Select(row => (string)row.Data))
            Assert.All(ScoresOf(Of(rule, naive).Scorer, naive), row => Assert.DoesNotContain(float.NaN, row));
    }

    private static (IKvScorer Scorer, Func<int, double[]> Reference) Of(string rule, NaiveScores naive) => rule switch
    {
        "StreamingLlm" => (new StreamingLlm(3), _ => Each(naive, i => NaiveScores.StreamingLlm(i, 3))),
        "KNorm" => (new KNorm(), head => Each(naive, i => naive.KNorm(head, i))),
        "KeyDiff" => (new KeyDiff(), head => Each(naive, i => naive.KeyDiff(head, i))),
        "CurDkv" => (new CurDkv(5, 2), head => Each(naive, i => naive.CurDkv(head, i, 5, 2))),
        "Tova" => (new Tova(), _ => Each(naive, naive.Tova)),
        "SnapKv" => (new SnapKv(8, 5), head => naive.SnapKv(head, 8, 5)),
        "H2O" => (new H2O(2), head => Each(naive, i => naive.H2O(head, i, 2))),
        "ExpectedAttention" => (new ExpectedAttention(20, 2), head => naive.ExpectedAttention(head, 20, 2, RotaryBase)),
        _ => (new LagKv(6, 3), head => naive.LagKv(head, 6, 3)),
    };

    /// <summary>What heads of equal length keep, by the path of the caches.</summary>
    private static int[][] Kept(float[][] scores, int[] counts, double? floor = null)
    {
        var (heads, n) = (scores.Length, scores[0].Length);
        using var cache = new ContiguousKvCache(new([new(heads, 1)], 1, n, KvFormat.F32, KvFormat.F32));
        using var rows = torch.zeros(1, heads, n, 1);
        cache.Append(0, rows, rows, [.. Enumerable.Range(0, n)]);
        return cache.Evict(0, [.. scores.SelectMany(row => row)], counts, floor);
    }

    private static double[] Each(NaiveScores naive, Func<int, double> score) => [.. Enumerable.Range(0, naive.Length).Select(score)];

    private static float[][] ScoresOf(IKvScorer scorer, NaiveScores naive)
    {
        var rows = Math.Min(naive.Rows, scorer.Needs.QueryWindow);
        var scores = new float[naive.Heads * naive.Length];
        Array.Fill(scores, float.NaN);
        scorer.Score(
            new()
            {
                Layer = 0,
                Heads = naive.Heads,
                QueryHeads = naive.Heads * naive.Group,
                HeadDim = naive.Depth,
                Length = naive.Length,
                Keys = naive.Keys,
                Values = naive.Values,
                Positions = naive.Positions,
                NextPosition = naive.Next,
                Rotary = new() { Base = RotaryBase },
                QueryRows = rows,
                Queries = naive.LastQueries(rows),
                QueryMean = naive.QueryMean,
                QueryCovariance = naive.QueryCovariance,
                AttentionSums = naive.Sums,
            }, scores);
        return [.. scores.Chunk(naive.Length)];
    }

    /// <summary>0 where both are the same, 1 where tokens were exchanged whose scores differ by rounding only.</summary>
    private static int Same(int[] wanted, int[] got, double[] scores, string what)
    {
        Assert.Equal(wanted.Length, got.Length);
        if (wanted.AsSpan().SequenceEqual(got))
            return 0;
        double[] missed = [.. wanted.Except(got).Select(i => scores[i]).Order()];
        double[] extra = [.. got.Except(wanted).Select(i => scores[i]).Order()];
        foreach (var (m, e) in missed.Zip(extra))
            Assert.True(m != e && Math.Abs(m - e) <= 2e-6 * Math.Abs(m), $"{what}: kept a token of score {e} rather than {m}");
        return 1;
    }
}
