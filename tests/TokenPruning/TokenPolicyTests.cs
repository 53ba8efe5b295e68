using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.TokenPruning.PruningScene;
using static AuxCore.Tests.TokenPruning.TokenPlanTests;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.TokenPruning;

/// <summary>Each policy against its description, written down plainly, image by image and in double.</summary>
[RequiresLibtorch]
public class TokenPolicyTests
{
    [Fact]
    public void Cls_attention_keeps_what_the_class_token_attends_to_most()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(1);
        foreach (var (budget, count) in ((Budget, int)[])[(Budget.Count(5), 5), (Budget.Ratio(0.25), 4), (Budget.Count(0), 0)])
        {
            Keeps(layer, new ClsAttentionPolicy(budget), b => Highest(Attention(layer, b), count));
            Keeps(layer, new WorstPolicy(new ClsAttentionPolicy(budget)), b => Highest([.. Attention(layer, b).Select(a => -a)], count));
        }

        Keeps(layer, new ClsAttentionPolicy(Budget.Threshold(0.06f)), b =>
            [.. Enumerable.Range(0, Visual).Where(i => Attention(layer, b)[i] >= 0.06)]);
        Keeps(layer, new ClsAttentionPolicy(Budget.TopP(0.6)), b =>
        {
            var attention = Attention(layer, b);
            int[] order = [.. Enumerable.Range(0, Visual).OrderByDescending(i => attention[i])];
            var (sum, count) = (0.0, 0);
            while (sum < 0.6 * attention.Sum())
                sum += attention[order[count++]];
            return [.. order.Take(count).Order()];
        });
    }

    [Fact]
    public void VisionZip_adds_the_mean_of_the_rest_to_targets_at_even_steps()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(2);
        foreach (var (dominant, contextual) in ((int, int)[])[(4, 3), (4, 0), (0, 5), (14, 1), (1, 40)])
        {
            using var reduction = new VisionZip(Budget.Count(dominant), contextual).Reduce(layer);
            for (var b = 0; b < Images; b++)
            {
                var (first, hidden, keys) = (Highest(Attention(layer, b), dominant), Rows(layer.Hidden[b]), KeyMeans(layer, b));
                int[] rest = [.. Enumerable.Range(0, Visual).Except(first)];
                var step = contextual == 0 ? 1 : Math.Max(1, rest.Length / contextual);
                int[] targets = [.. rest.Where((_, place) => place % step == 0).Take(contextual)];
                Dictionary<int, List<int>> given = targets.ToDictionary(target => target, _ => new List<int>());
                foreach (var i in contextual == 0 ? [] : rest.Except(targets))
                    given[targets.MaxBy(target => Cosine(keys[i + 1], keys[target + 1]))].Add(i);
                double[][] expected =
                [
                    hidden[0],
                    .. first.Concat(targets).Order().Select(i => given.TryGetValue(i, out var others) && others.Count > 0
                        ? [.. hidden[i + 1].Select((x, k) => x + others.Average(other => hidden[other + 1][k]))]
                        : hidden[i + 1]),
                ];
                Near(expected, reduction.Apply(layer.Hidden)[b], 1e-6);
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void PruMerge_adds_attended_neighbours_to_outliers(bool plus)
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(3);
        using var reduction = new PruMerge(plus, Budget.Count(2), neighbours: 5).Reduce(layer);
        for (var b = 0; b < Images; b++)
        {
            var (attention, hidden) = (Attention(layer, b), Rows(layer.Hidden[b]));
            var keys = Rows(layer.Keys[b].transpose(0, 1).reshape(Length, Heads * Depth));
            IEnumerable<int> kept = Highest(attention, 2);
            if (plus) // every ⌊16 / 6⌋th
                kept = kept.Union(Enumerable.Range(0, Visual).Where(i => i % 2 == 0)).Order();
            double[][] expected =
            [
                hidden[0],
                .. kept.Select(i =>
                {
                    int[] near = [.. Enumerable.Range(0, Visual).Where(j => j != i)
                        .OrderByDescending(j => Cosine(keys[i + 1], keys[j + 1])).Take(5)];
                    return (double[])[.. hidden[i + 1].Select((x, k) => x + near.Sum(j => attention[j] * hidden[j + 1][k]))];
                }),
            ];
            Near(expected, reduction.Apply(layer.Hidden)[b].narrow(0, 0, reduction.Counts[b]), 1e-6);
        }
    }

    [Fact]
    public void PruMerge_keeps_as_many_as_there_are_outliers()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(3, scale: 4);
        using var reduction = new PruMerge().Reduce(layer);
        Assert.Equal(
            Enumerable.Range(0, Images).Select(b =>
            {
                var attention = Attention(layer, b);
                double[] sorted = [.. attention.Order()];
                double At(double place) => sorted[(int)place] + (place % 1) * (sorted[(int)place + 1] - sorted[(int)place]);
                var (q1, q3) = (At((Visual - 1) / 4.0), At(3 * (Visual - 1) / 4.0));
                return 1 + Math.Max(1, attention.Count(a => a > q3 + 1.5 * (q3 - q1)));
            }),
            reduction.Counts);
        Assert.True(reduction.Counts.Distinct().Count() > 1); // images differ
    }

    [Fact]
    public void DivPrune_is_greedy_max_min()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(4);
        Keeps(layer, new DivPrune(Budget.Count(6)), b =>
        {
            var hidden = Rows(layer.Hidden[b])[1..];
            double Distance(int i, int j) => 1 - Cosine(hidden[i], hidden[j]);
            var others = Enumerable.Range(0, Visual);
            List<int> kept = [others.MaxBy(i => others.Where(j => j != i).Min(j => Distance(i, j)))];
            while (kept.Count < 6)
                kept.Add(others.Except(kept).MaxBy(i => kept.Min(j => Distance(i, j))));
            return [.. kept.Order()];
        });
    }

    [Fact]
    public void Dart_gives_each_pivot_the_tokens_least_like_it()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(5);
        foreach (var (count, pivots) in ((int, int)[])[(8, 3), (3, 8), (16, 2), (0, 8)])
        {
            Keeps(layer, new Dart(Budget.Count(count), pivots), b =>
            {
                var (hidden, keys) = (Rows(layer.Hidden[b])[1..], Rows(layer.Keys[b].transpose(0, 1).reshape(Length, Heads * Depth))[1..]);
                var first = Math.Min(pivots, (count + 1) / 2);
                int[] chosen = Highest([.. keys.Select(key => key.Sum(Math.Abs))], first);
                List<int> kept = [.. chosen];
                for (var p = 0; p < first; p++)
                {
                    kept.AddRange(Enumerable.Range(0, Visual).Except(kept).OrderBy(i => Cosine(hidden[i], hidden[chosen[p]]))
                        .Take(first + (count - first) * (p + 1) / first - kept.Count).ToArray());
                }

                return [.. kept.Order()];
            });
        }
    }

    [Fact]
    public void ToMe_goes_on_merging_until_so_many_are_left()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(6);
        foreach (var count in (int[])[16, 13, 8, 3, 1])
        {
            using var reduction = new ToMe(Budget.Count(count)).Reduce(layer);
            for (var b = 0; b < Images; b++)
            {
                List<(double[] Key, double[] Row, double Size)> groups =
                    [.. KeyMeans(layer, b)[1..].Zip(Rows(layer.Hidden[b])[1..], (key, row) => (key, row, 1.0))];
                while (groups.Count > count)
                    Merge(groups, groups.Count - count);
                Near([Rows(layer.Hidden[b])[0], .. groups.Select(group => group.Row)], reduction.Apply(layer.Hidden)[b], 1e-5);
                Assert.Equal([1, .. groups.Select(group => (float)group.Size)], reduction.Sizes()[b].data<float>());
            }
        }
    }

    [Fact]
    public void Sizes_of_tokens_that_were_merged_before_count()
    {
        using var scope = torch.NewDisposeScope();
        var sizes = torch.ones(Images, Length);
        sizes[0, 3] = 5;
        var layer = Layer(6, sizes: sizes);
        using var reduction = new ToMe(Budget.Count(3)).Reduce(layer);
        Assert.Equal([Length + 4f, Length, Length], reduction.Sizes(sizes).sum(new long[] { 1 }).data<float>());
        Same(reduction.Sizes(sizes), reduction.Sizes()); // those that it was made with
    }

    [Fact]
    public void Controls_keep_random_tokens_even_steps_and_means_of_cells()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(7);
        Keeps(layer, new StridePolicy(Budget.Count(5)), _ => [1, 4, 8, 11, 14]);
        Keeps(layer, new StridePolicy(Budget.Ratio(0)), _ => []);

        using var one = new RandomPolicy(Budget.Count(5), 1).Reduce(layer);
        using var again = new RandomPolicy(Budget.Count(5), 1).Reduce(layer);
        using var other = new RandomPolicy(Budget.Count(5), 2).Reduce(layer);
        Same(one.Apply(layer.Hidden), again.Apply(layer.Hidden));
        Assert.False(one.Apply(layer.Hidden).eq(other.Apply(layer.Hidden)).all().item<bool>());
        Assert.Equal([6, 6, 6], one.Counts);

        foreach (var (grid, cells) in ((PoolGrid, (int, int))[])
            [(PoolGrid.ToGrid(4, 4, 3, 2), (3, 2)), (PoolGrid.Window(4, 4, 2, 2), (2, 2))])
        {
            using var pooled = new PoolingPolicy(grid).Reduce(layer);
            var hidden = layer.Hidden.detach().requires_grad_();
            var actual = pooled.Apply(hidden);
            actual.square().sum().backward();
            var gradient = hidden.grad!.clone();
            hidden.grad = null;
            var image = hidden.narrow(1, 1, Visual).transpose(1, 2).reshape(Images, Width, 4, 4);
            var means = torch.nn.functional.adaptive_avg_pool2d(image, [cells.Item1, cells.Item2]).flatten(2).transpose(1, 2);
            var expected = torch.cat([hidden.narrow(1, 0, 1), means], 1);
            expected.square().sum().backward();
            Assert.InRange((expected - actual).abs().max().item<float>(), 0, 1e-6);
            Assert.InRange((hidden.grad! - gradient).abs().max().item<float>(), 0, 1e-5);
            Assert.Equal(1 + grid.Cells, pooled.Sizes().shape[1]);
        }

        using var windows = new PoolingPolicy(PoolGrid.Window(4, 4, 3, 3)).Reduce(layer);
        Same(torch.tensor([1f, 9, 3, 3, 1]).expand(Images, 5), windows.Sizes());
    }

    [Fact]
    public void Ties_go_to_the_lower_index_and_NaN_ranks_last_and_is_counted()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(8);
        layer.Keys.fill_(1); // all patches are alike
        Keeps(layer, new ClsAttentionPolicy(Budget.Count(3)), _ => [0, 1, 2]);
        layer.Queries[1].fill_(float.NaN);
        using var plan = (TokenPlan)new ClsAttentionPolicy(Budget.Count(3)).Reduce(layer);
        Assert.Equal([0, Visual, 0], plan.NaNCounts);
        Same(torch.tensor([0L, 1, 2, 3]).expand(Images, 4), plan.Positions());
    }

    [Fact]
    public void Padding_is_nobodys_token()
    {
        using var scope = torch.NewDisposeScope();
        int[] lengths = [17, 9, 12];
        var layer = Layer(9, lengths: lengths);
        var budget = Budget.Ratio(0.5);
        foreach (var policy in (TokenPolicy[])
            [
                new ClsAttentionPolicy(budget), new ClsAttentionPolicy(Budget.TopP(0.5)), new StridePolicy(budget),
                new PruMerge(plus: true), new PruMerge(budget: budget), new VisionZip(Budget.Ratio(0.25), 2),
                new WorstPolicy(new ClsAttentionPolicy(budget)),
            ])
        {
            using var reduction = policy.Reduce(layer);
            var rows = reduction.Apply(layer.Hidden);
            for (var b = 0; b < Images; b++)
            {
                Tensor Own(Tensor tensor, int axis) => tensor.narrow(0, b, 1).narrow(axis, 0, lengths[b]);
                using var alone = policy.Reduce(new()
                {
                    Hidden = Own(layer.Hidden, 1), Queries = Own(layer.Queries, 2), Keys = Own(layer.Keys, 2), Protected = 1,
                });
                Assert.Equal(alone.Counts[0], reduction.Counts[b]);
                var expected = alone.Apply(Own(layer.Hidden, 1))[0];
                Assert.InRange((expected - rows[b].narrow(0, 0, expected.shape[0])).abs().max().item<float>(), 0, 1e-6);
                Assert.Equal(0, rows[b].narrow(0, expected.shape[0], rows.shape[1] - expected.shape[0]).abs().sum().item<float>());
            }
        }
    }

    [Fact]
    public void A_policy_leaves_no_tensor_behind()
    {
        var budget = Budget.Ratio(0.5);
        foreach (var policy in (TokenPolicy[])
            [
                new ClsAttentionPolicy(budget), new VisionZip(Budget.Ratio(0.25), 2), new PruMerge(plus: true), new DivPrune(budget),
                new ToMe(budget), new Dart(budget), new RandomPolicy(budget, 1), new StridePolicy(budget),
                new PoolingPolicy(PoolGrid.Window(4, 4, 2, 2)),
            ])
        {
            TensorLeaks.None(() =>
            {
                using var scope = torch.NewDisposeScope();
                policy.Reduce(Layer(1)).Dispose();
            });
            TensorLeaks.None(() =>
            {
                var layer = Layer(1);
                var reduction = policy.Reduce(layer);
                (layer.Hidden, layer.Queries, layer.Keys, reduction.Apply(layer.Hidden)).Item4.Dispose();
                reduction.Dispose();
                foreach (var tensor in (Tensor[])[layer.Hidden, layer.Queries, layer.Keys])
                    tensor.Dispose();
            });
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(1);
        Refused<ArgumentException>("17", () => new ClsAttentionPolicy(Budget.Count(17)).Reduce(layer));
        Refused<ArgumentException>("DivPrune has no scores", () => _ = new DivPrune(Budget.TopP(0.5)));
        Refused<ArgumentException>("ToMe has no scores", () => _ = new ToMe(Budget.Threshold(1)));
        Refused<ArgumentException>("Dart has no scores", () => _ = new Dart(Budget.Outliers()));
        Refused<ArgumentException>("StridePolicy has no scores", () => _ = new StridePolicy(Budget.Outliers()));
        Refused<ArgumentOutOfRangeException>("pivots", () => _ = new Dart(Budget.Count(1), 0));
        Refused<ArgumentOutOfRangeException>("contextual", () => _ = new VisionZip(Budget.Count(1), -1));
        Refused<ArgumentOutOfRangeException>("neighbours", () => _ = new PruMerge(neighbours: -1));
        Refused<ArgumentException>("grid", () => _ = new PoolingPolicy(default));
        Refused<ArgumentException>(
            "16 visual tokens are not the grid of 4 x 5", () => new PoolingPolicy(PoolGrid.Window(4, 5, 2, 2)).Reduce(layer));
        Refused<ArgumentNullException>("policy", () => _ = new WorstPolicy(null!));
        var stride = new StridePolicy(Budget.Count(1));
        Refused<ArgumentException>("Hidden", () => stride.Reduce(With(layer, hidden: torch.randn(Images, Length))));
        Refused<ArgumentException>("Queries", () => stride.Reduce(With(layer, queries: torch.randn(Images, Heads, Length - 1, Depth))));
        Refused<ArgumentException>("Keys", () => stride.Reduce(With(layer, keys: torch.randn(Images, Length, Depth))));
        Refused<ArgumentException>("Lengths", () => stride.Reduce(With(layer, lengths: [17, 17])));
        Refused<ArgumentException>("Lengths", () => stride.Reduce(With(layer, lengths: [17, 18, 17])));
        Refused<ArgumentException>("Lengths", () => stride.Reduce(With(layer, lengths: [17, 0, 17])));
        Refused<ArgumentException>("Sizes", () => stride.Reduce(With(layer, sizes: torch.ones(Images, Visual))));
        Refused<ArgumentException>("Protected", () => stride.Reduce(With(layer, first: 18)));
        Refused<ArgumentException>("one length", () => new ToMe(Budget.Count(1)).Reduce(With(layer, lengths: [17, 16, 17])));
        Refused<ArgumentException>("one length", () => new Dart(Budget.Count(1)).Reduce(With(layer, lengths: [17, 16, 17])));
    }

    [Fact]
    public void Scores_of_rows_are_columns_of_the_softmax()
    {
        using var scope = torch.NewDisposeScope();
        var (queries, keys) = (torch.randn(2, 4, 9, 5), torch.randn(2, 2, 9, 5));
        var weights = (queries.matmul(keys.repeat_interleave(2, 1).transpose(2, 3)) / Math.Sqrt(5)).softmax(3).mean([1]);
        int[] lengths = [9, 4];
        var own = (queries[1].narrow(1, 0, 4).matmul(keys[1].repeat_interleave(2, 0).narrow(1, 0, 4).transpose(1, 2)) / Math.Sqrt(5))
            .softmax(2).mean([0]);

        Close(weights.select(1, 8), TokenScores.LastQuery(queries, keys));
        Close(weights.select(1, 0), TokenScores.Cls(queries, keys));
        Close((weights.select(1, 2) + weights.select(1, 7)) / 2, TokenScores.Raters(queries, keys, [2, 7]));
        Close(weights.mean([1]), TokenScores.ColumnMean(queries, keys));
        Close(torch.cat([own[3], torch.zeros(5)]), TokenScores.LastQuery(queries, keys, lengths)[1]);
        Close(torch.cat([own[0], torch.zeros(5)]), TokenScores.Cls(queries, keys, lengths)[1]);
        Close(torch.cat([own[1], torch.zeros(5)]), TokenScores.Raters(queries, keys, [1], lengths)[1]);
        Close(torch.cat([own.mean([0]), torch.zeros(5)]), TokenScores.ColumnMean(queries, keys, lengths)[1]);
        Close(weights[0].mean([0]), TokenScores.ColumnMean(queries, keys, lengths)[0]);

        Refused<ArgumentException>("lengths", () => TokenScores.LastQuery(queries, keys, [9, 0]));
        Refused<ArgumentException>("lengths", () => TokenScores.Cls(queries, keys, [9]));
        Refused<ArgumentException>("rows", () => TokenScores.Raters(queries, keys, [9]));
        Refused<ArgumentException>("rows", () => TokenScores.Raters(queries, keys, []));
        Refused<ArgumentException>("queries", () => TokenScores.Cls(queries[0], keys));
        Refused<ArgumentException>("queries", () => TokenScores.ColumnMean(queries.narrow(2, 0, 3), keys, lengths));
    }

    private static void Close(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.shape, actual.shape);
        Assert.InRange((expected - actual).abs().max().item<float>(), 0, 1e-6);
    }

    // The plan keeps the class token and, of the visual ones, those that are expected.
    private static void Keeps(PruningLayer layer, TokenPolicy policy, Func<int, int[]> expected)
    {
        using var plan = (TokenPlan)policy.Reduce(layer);
        for (var b = 0; b < Images; b++)
        {
            int[] kept = [0, .. expected(b).Select(i => i + 1)];
            Assert.Equal(kept.Length, plan.Counts[b]);
            Assert.Equal(kept, plan.Positions()[b].narrow(0, 0, kept.Length).data<long>().Select(i => (int)i));
        }
    }

    private static void Near(double[][] expected, Tensor actual, double tolerance)
    {
        var rows = Rows(actual);
        Assert.Equal(expected.Length, rows.Length);
        for (var i = 0; i < rows.Length; i++)
        {
            for (var k = 0; k < rows[i].Length; k++)
                Assert.Equal(expected[i][k], rows[i][k], tolerance);
        }
    }
}
