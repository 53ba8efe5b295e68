using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.TokenPruning.PruningScene;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.TokenPruning;

/// <summary>Policies where there is least to choose from: padding, sizes of before, no outliers, nothing to be left.</summary>
[RequiresLibtorch]
public class TokenPolicyEdgeTests
{
    [Fact]
    public void ToMe_weighs_tokens_by_what_they_stood_for_before()
    {
        using var scope = torch.NewDisposeScope();
        var sizes = (torch.arange(Images * Length, torch.float32).view(Images, Length) * 5).remainder(7) * 3 + 1;
        var layer = Layer(6, sizes: sizes);
        foreach (var count in (int[])[13, 8, 3, 1])
        {
            using var reduction = new ToMe(Budget.Count(count)).Reduce(layer);
            for (var b = 0; b < Images; b++)
            {
                float[] before = [.. sizes[b].data<float>()];
                List<(double[] Key, double[] Row, double Size)> groups =
                [
                    .. KeyMeans(layer, b)[1..].Zip(Rows(layer.Hidden[b])[1..], before[1..])
                        .Select(token => (token.First, token.Second, (double)token.Third)),
                ];
                while (groups.Count > count)
                    Merge(groups, groups.Count - count);
                var rows = Rows(reduction.Apply(layer.Hidden)[b]);
                Assert.Equal(1 + groups.Count, rows.Length);
                for (var i = 0; i < groups.Count; i++)
                    Assert.InRange(groups[i].Row.Zip(rows[i + 1], (expected, actual) => Math.Abs(expected - actual)).Max(), 0, 1e-5);
                Assert.Equal([before[0], .. groups.Select(group => (float)group.Size)], reduction.Sizes(sizes)[b].data<float>());
            }
        }
    }

    [Fact]
    public void Merging_leaves_one_and_selecting_may_leave_none()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(6);
        using var merged = new ToMe(Budget.Count(0)).Reduce(layer);
        Assert.Equal([2, 2, 2], merged.Counts);
        Assert.Equal([1f, Visual], merged.Sizes()[1].data<float>());
        var none = Budget.Count(0);
        foreach (var policy in (TokenPolicy[])[new DivPrune(none), new Dart(none), new RandomPolicy(none, 1)])
        {
            using var selected = policy.Reduce(layer);
            Assert.Equal([1, 1, 1], selected.Counts);
        }
    }

    [Fact]
    public void DivPrune_looks_at_no_padding_and_counts_by_the_longest()
    {
        using var scope = torch.NewDisposeScope();
        int[] lengths = [17, 9, 12];
        var layer = Layer(9, lengths: lengths);
        using var half = new DivPrune(Budget.Ratio(0.5)).Reduce(layer);
        Assert.Equal([1 + 8, 1 + 8, 1 + 8], half.Counts);

        using var plan = (TokenPlan)new DivPrune(Budget.Count(6)).Reduce(layer);
        for (var b = 0; b < Images; b++)
        {
            Tensor Own(Tensor tensor, int axis) => tensor.narrow(0, b, 1).narrow(axis, 0, lengths[b]);
            using var alone = (TokenPlan)new DivPrune(Budget.Count(6)).Reduce(new()
            {
                Hidden = Own(layer.Hidden, 1), Queries = Own(layer.Queries, 2), Keys = Own(layer.Keys, 2), Protected = 1,
            });
            Assert.Equal(alone.Positions()[0].data<long>().ToArray(), plan.Positions()[b].data<long>().ToArray());
        }
    }

    [Fact]
    public void PruMerge_keeps_one_where_nothing_stands_out()
    {
        using var scope = torch.NewDisposeScope();
        var layer = Layer(3);
        layer.Queries.zero_(); // attention is even
        using var least = new PruMerge().Reduce(layer);
        Assert.Equal([2, 2, 2], least.Counts);
        using var none = new PruMerge(budget: Budget.Outliers()).Reduce(layer);
        Assert.Equal([1, 1, 1], none.Counts);
    }
}
