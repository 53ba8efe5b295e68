using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.TokenPruning.TokenPlanTests;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.TokenPruning;

[RequiresLibtorch]
public class TokenMergingTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Bipartite_groups_are_the_kernels_and_means_and_gradients_those_of_index_add(bool sized)
    {
        using var scope = torch.NewDisposeScope();
        var (metric, sizes) = (torch.randn(2, 9, 6), sized ? torch.rand(2, 9) + 0.5 : null);
        var hidden = torch.randn(2, 9, 4).requires_grad_();
        using var merging = TokenMerging.Bipartite(metric, merged: 3, protect: 1, sizes);
        for (var b = 0; b < 2; b++)
        {
            var slots = new int[9];
            TokenMerge.Bipartite(metric[b].contiguous().data<float>().ToArray(), 6, [0, 9], 3, slots, new int[2], protect: 1);
            Assert.Equal(slots, merging.Groups()[b].data<int>());
        }

        var weights = torch.randn(2, 6, 4);
        var merged = merging.Apply(hidden);
        (merged.square() * weights).sum().backward();
        var gradient = hidden.grad!.clone();
        hidden.grad = null;
        var (means, sums) = Means(hidden, merging.Groups().to(torch.int64), 6, sizes ?? torch.ones(2, 9));
        (means.square() * weights).sum().backward();

        Assert.InRange((means - merged).abs().max().item<float>(), 0, 1e-6);
        Assert.InRange((gradient - hidden.grad!).abs().max().item<float>(), 0, 1e-5);
        Assert.InRange((sums - merging.Sizes()).abs().max().item<float>(), 0, 1e-6);
        Assert.Equal([6, 6], merging.Counts);
        var total = (sizes ?? torch.ones(2, 9)).sum().item<float>();
        Assert.Equal(total, merging.Sizes().sum().item<float>(), 1e-5);
    }

    [Fact]
    public void Merging_nothing_is_the_identity_bit_for_bit()
    {
        using var scope = torch.NewDisposeScope();
        var hidden = torch.randn(2, 9, 4);
        using var merging = TokenMerging.Bipartite(torch.randn(2, 9, 6), merged: 0, sizes: torch.rand(2, 9) + 0.5);
        Same(hidden, merging.Apply(hidden));
    }

    [Fact]
    public void Ragged_and_padded_images_merge_alike()
    {
        using var scope = torch.NewDisposeScope();
        var (metric, hidden) = (torch.randn(12, 6), torch.randn(12, 4));
        var segments = torch.tensor([0, 4, 12]);
        Tensor Padded(Tensor rows) => torch.stack(
            [torch.cat([rows.narrow(0, 0, 4), torch.full([4, rows.shape[1]], 7)]), rows.narrow(0, 4, 8)]);
        using var ragged = TokenMerging.Bipartite(metric, merged: 3, cuSeqlens: segments);
        using var padded = TokenMerging.Bipartite(Padded(metric), merged: 3, cuSeqlens: segments);

        Assert.Equal([2, 5], ragged.Counts); // two of four tokens are candidates
        Assert.Equal([2, 5], padded.Counts);
        var (rows, filled) = (ragged.Apply(hidden), padded.Apply(Padded(hidden)));
        Same(rows.narrow(0, 0, 2), filled[0].narrow(0, 0, 2));
        Same(torch.zeros(3, 4), filled[0].narrow(0, 2, 3));
        Same(rows.narrow(0, 2, 5), filled[1]);
        Same(torch.cat([ragged.Sizes().narrow(0, 0, 2), torch.zeros(3)]), padded.Sizes()[0]);
        Same(torch.tensor([true, true, false, false, false, true, true, true, true, true]).view(2, 1, 1, 5), padded.Mask());
    }

    [Fact]
    public void What_a_plan_drops_goes_to_the_most_similar_target()
    {
        using var scope = torch.NewDisposeScope();
        var metric = torch.tensor([1f, 0, 0, 1, 3, 1, 0, 2, -1, -1]).view(1, 5, 2);
        var hidden = torch.tensor([10f, 20, 40, 80, 160]).view(1, 5, 1);
        using var plan = TokenPlan.Select(torch.tensor([9f, 8, 0, 0, 0]).view(1, 5), Budget.Count(2));
        using var all = TokenMerging.Assign(plan, metric);
        using var first = TokenMerging.Assign(plan, metric, torch.tensor([true, false, true, true, true]).view(1, 5));
        using var others = TokenMerging.Assign(
            plan, metric, torch.tensor([true, false, false, false, false]).view(1, 5), withTarget: false);

        Same(torch.tensor([0, 1, 0, 1, 0]).view(1, 5), all.Groups()); // the last is as unlike both: the lower one
        Same(torch.tensor([70f, 50]).view(1, 2, 1), all.Apply(hidden));
        Same(torch.tensor([0, 1, 0, 0, 0]).view(1, 5), first.Groups());
        Same(torch.tensor([-1, -1, 0, 0, 0]).view(1, 5), others.Groups());
        Same(torch.tensor([280f / 3, 0]).view(1, 2, 1), others.Apply(hidden));
    }

    [Fact]
    public void Groups_of_the_caller_are_averaged()
    {
        using var scope = torch.NewDisposeScope();
        using var merging = TokenMerging.Of(torch.tensor([0L, 2, 0, -1]).view(1, 4), 3);
        Same(torch.tensor([2f, 0, 2]).view(1, 3, 1), merging.Apply(torch.tensor([1f, 2, 3, 4]).view(1, 4, 1)));
        Same(torch.tensor([2f, 0, 1]).view(1, 3), merging.Sizes());
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var metric = torch.randn(2, 9, 6);
        Refused<ArgumentException>("metric", () => TokenMerging.Bipartite(torch.randn(9), 1));
        Refused<ArgumentException>("sizes", () => TokenMerging.Bipartite(metric, 1, sizes: torch.ones(2, 8)));
        Refused<ArgumentException>("sizes", () => TokenMerging.Bipartite(metric, 1, sizes: torch.ones(2, 9, torch.float64)));
        Refused<ArgumentOutOfRangeException>("merged", () => TokenMerging.Bipartite(metric, -1));
        Refused<ArgumentException>("cuSeqlens", () => TokenMerging.Bipartite(metric, 1, cuSeqlens: torch.tensor([0, 9])));
        Refused<ArgumentException>("groups", () => TokenMerging.Of(torch.zeros(4, torch.int64), 1));
        Refused<ArgumentOutOfRangeException>("groups", () => TokenMerging.Of(torch.tensor([0L, 3]).view(1, 2), 3));
        using var merging = TokenMerging.Bipartite(metric, 1);
        Refused<ArgumentException>("the merging was made for 2 images of 9", () => merging.Apply(torch.randn(2, 8, 4)));
        Refused<ArgumentException>("float64", () => merging.Apply(torch.randn(2, 9, 4, dtype: torch.float64)));
        using var zero = TokenMerging.Bipartite(metric, 1, sizes: torch.zeros(2, 9));
        Refused<ArgumentException>("sizes[0] is 0", () => zero.Apply(torch.randn(2, 9, 4)));
        using var plan = TokenPlan.Select(torch.rand(2, 9), Budget.Count(2));
        Refused<ArgumentException>("metric", () => TokenMerging.Assign(plan, torch.randn(2, 8, 6)));
        Refused<ArgumentException>("targets", () => TokenMerging.Assign(plan, metric, torch.ones(2, 9)));
        merging.Dispose();
        Assert.Throws<ObjectDisposedException>(() => merging.Apply(torch.randn(2, 9, 4)));
    }

    [Fact]
    public void A_backward_that_fails_gives_NaN_and_the_next_call_says_why()
    {
        using var scope = torch.NewDisposeScope();
        var input = torch.ones(3, requires_grad: true);
        var output = KernelFunction.Attach(input, torch.ones(3), (_, _) => throw new ArithmeticException("planted"));

        output.sum().backward();

        Assert.True(input.grad!.isnan().all().item<bool>());
        Assert.Equal("planted", Assert.Throws<ArithmeticException>(() => TokenPlan.Select(torch.rand(3), Budget.Count(1))).Message);
        AuxRuntime.ThrowIfFailed(); // once
    }

    private static (Tensor Means, Tensor Sums) Means(Tensor hidden, Tensor groups, int count, Tensor sizes)
    {
        var members = torch.nn.functional.one_hot(groups, count).to(torch.float32) * sizes.unsqueeze(2);
        var sums = members.sum(1);
        return (torch.einsum("blk,bld->bkd", members, hidden) / sums.unsqueeze(2), sums);
    }
}
