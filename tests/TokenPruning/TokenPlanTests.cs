using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.TokenPruning;

[RequiresLibtorch]
public class TokenPlanTests
{
    [Fact]
    public void A_plan_keeps_the_rows_that_index_select_would()
    {
        using var scope = torch.NewDisposeScope();
        var (scores, hidden) = (torch.randn(3, 11), torch.randn(3, 11, 2, 5));
        using var plan = TokenPlan.Select(scores, Budget.Count(4));
        var indices = scores.topk(4).indexes.sort(1).Values;

        Same(hidden.gather(1, indices.view(3, 4, 1, 1).expand(3, 4, 2, 5)), plan.Apply(hidden));
        Same(indices, plan.Positions());
        Same(torch.zeros(3, 11, torch.@bool).scatter(1, indices, torch.ones(3, 4, torch.@bool)), plan.Keep());
        Assert.Equal([4, 4, 4], plan.Counts);
        Assert.Equal((true, 3, 4), (plan.IsPadded, plan.Images, plan.Length));
        var keys = torch.randn(3, 6, 11, 7);
        Same(keys.gather(2, indices.view(3, 1, 4, 1).expand(3, 6, 4, 7)), plan.Apply(keys, tokenAxis: 2));
    }

    [Fact]
    public void Keeping_all_is_the_identity_bit_for_bit()
    {
        using var scope = torch.NewDisposeScope();
        var hidden = torch.randn(2, 9, 5);
        hidden[0, 1, 2] = float.NaN;
        hidden[1, 1, 2] = -0.0f;
        using var plan = TokenPlan.Select(torch.rand(2, 9), Budget.Ratio(1));
        using var ragged = TokenPlan.Select(torch.rand(18), Budget.Ratio(1), torch.tensor([0, 7, 18]));

        Assert.Equal(Bits(hidden), Bits(plan.Apply(hidden)));
        Assert.Equal(Bits(hidden), Bits(ragged.Apply(hidden.view(18, 5))));
        Assert.True(plan.KeepsAll && ragged.KeepsAll);
    }

    [Fact]
    public void Images_of_a_ragged_plan_have_counts_of_their_own()
    {
        using var scope = torch.NewDisposeScope();
        var scores = torch.tensor([0.9f, 0.1f, 0.5f, float.NaN, 0.7f, 0.2f]);
        var hidden = torch.arange(12, torch.float32).view(6, 2);
        using var plan = TokenPlan.Select(scores, Budget.Threshold(0.5f), torch.tensor([0, 3, 3, 6]));

        Assert.Equal([2, 0, 1], plan.Counts);
        Assert.Equal([0, 0, 1], plan.NaNCounts);
        Same(hidden.index_select(0, torch.tensor([0L, 2, 4])), plan.Apply(hidden));
        Same(torch.tensor([0L, 2, 1]), plan.Positions());
        Same(torch.tensor([0L, 1, 0]), plan.Positions(PositionMode.Renumber));
        Same(torch.tensor([0, 2, 2, 3]), plan.Offsets());
        Same(torch.tensor([0, -1, 1, -1, 2, -1]), plan.Slots());
        Same(torch.tensor([true, true, false, true, true, false, false, false, true]).view(3, 3), plan.Mask());
        Same(torch.tensor([true, false, false, true, true, false, false, false, true]).view(3, 3), plan.Mask(causal: true));
    }

    [Fact]
    public void Uneven_images_of_a_padded_plan_are_filled_with_zeros_and_masked()
    {
        using var scope = torch.NewDisposeScope();
        var scores = torch.tensor([0.9f, 0.1f, 0.8f, 9, 0.1f, 0.2f, 0.3f, 0.9f]).view(2, 4);
        var hidden = torch.arange(1, 17, torch.float32).view(2, 4, 2);
        using var plan = TokenPlan.Select(scores, Budget.Threshold(0.5f), torch.tensor([0, 3, 7])); // place 3 of image 0 is no token

        Assert.Equal([2, 1], plan.Counts);
        Same(torch.tensor([1f, 2, 5, 6, 15, 16, 0, 0]).view(2, 2, 2), plan.Apply(hidden));
        Same(torch.tensor([true, true, true, false]).view(2, 1, 1, 2), plan.Mask());
        Same(torch.tensor([true, false, true, true, true, false, true, false]).view(2, 1, 2, 2), plan.Mask(causal: true));
        Same(torch.tensor([true, false, true, false, false, false, false, true]).view(2, 4), plan.Keep());
        Same(torch.tensor([0, -1, 1, -1, -1, -1, -1, 0]).view(2, 4), plan.Slots());
        Same(torch.tensor([0L, 2, 3, 0]).view(2, 2), plan.Positions());
        Same(torch.tensor([0L, 1, 0, 0]).view(2, 2), plan.Positions(PositionMode.Renumber));
    }

    [Fact]
    public void Positions_of_several_rows_follow()
    {
        using var scope = torch.NewDisposeScope();
        var positions = torch.arange(24).view(3, 2, 4);
        using var plan = TokenPlan.Select(torch.tensor([0f, 1, 2, 3, 3, 2, 1, 0]).view(2, 4), Budget.Count(2));

        Same(positions.index(torch.TensorIndex.Colon, torch.TensorIndex.Tensor(torch.tensor([0L, 0, 1, 1])),
            torch.TensorIndex.Tensor(torch.tensor([2L, 3, 0, 1]))).view(3, 2, 2), plan.Positions(positions: positions));
        Same(torch.tensor([0L, 1]).expand(3, 2, 2), plan.Positions(PositionMode.Renumber, positions));
    }

    [Fact]
    public void Caches_of_all_layers_are_compacted_in_one_call_in_place_too()
    {
        using var scope = torch.NewDisposeScope();
        using var plan = TokenPlan.Select(torch.rand(2, 9), Budget.Count(3));
        var layers = Enumerable.Range(0, 3).Select(_ => (Keys: torch.randn(2, 4, 9, 5), Values: torch.randn(2, 4, 9, 6))).ToArray();

        var copies = plan.ApplyTo(layers);

        for (var i = 0; i < layers.Length; i++)
        {
            Same(plan.Apply(layers[i].Keys, 2), copies[i].Keys);
            Same(plan.Apply(layers[i].Values, 2), copies[i].Values);
        }

        var capacity = torch.zeros(2, 4, 20, 5); // a view into a larger cache
        capacity.narrow(2, 0, 9).copy_(layers[0].Keys);
        var moved = plan.ApplyTo([(capacity.narrow(2, 0, 9), layers[0].Values)], inPlace: true);
        Same(copies[0].Keys, moved[0].Keys);
        Same(copies[0].Values, moved[0].Values);
        Same(copies[0].Keys, capacity.narrow(2, 0, 3));
        Same(torch.zeros(2, 4, 11, 5), capacity.narrow(2, 9, 11));
        using var ragged = TokenPlan.Select(torch.rand(9), Budget.Count(3));
        var (keys, values) = ragged.ApplyTo([(torch.randn(4, 9, 5), torch.randn(4, 9, 5))])[0];
        Assert.Equal([4, 3, 5], keys.shape);
        Assert.Equal([4, 3, 5], values.shape);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_gradient_is_that_of_gather_in_float64(bool isRagged)
    {
        using var scope = torch.NewDisposeScope();
        var scores = torch.rand(2, 7);
        var segments = isRagged ? torch.tensor([0, 5, 14]) : null;
        using var plan = TokenPlan.Select(isRagged ? scores.view(14) : scores, Budget.Count(3), segments);
        var hidden = (isRagged ? torch.randn(14, 4, dtype: torch.float64) : torch.randn(2, 7, 4, dtype: torch.float64)).requires_grad_();
        var weights = torch.randn(isRagged ? [6, 4] : [2, 3, 4], dtype: torch.float64);

        (plan.Apply(hidden).square() * weights).sum().backward();

        var kept = plan.Keep().unsqueeze(-1);
        var spread = torch.zeros_like(hidden).masked_scatter(kept.expand(hidden.shape), weights);
        Same(2 * hidden.detach() * spread, hidden.grad!);
    }

    [Fact]
    public void Scaling_by_score_gives_scores_the_gradient_of_the_expression()
    {
        using var scope = torch.NewDisposeScope();
        var scores = torch.rand(2, 7).requires_grad_();
        var hidden = torch.randn(2, 7, 4).requires_grad_();
        using var plan = TokenPlan.Select(scores, Budget.Count(3));
        var weights = torch.randn(2, 3, 4);

        (plan.Apply(hidden, scaleByScore: scores) * weights).sum().backward();
        var (byScore, byHidden) = (scores.grad!.clone(), hidden.grad!.clone());
        (scores.grad, hidden.grad) = (null, null);
        var indices = plan.Positions();
        var expected = hidden.gather(1, indices.unsqueeze(2).expand(2, 3, 4)) * scores.gather(1, indices).unsqueeze(2);
        (expected * weights).sum().backward();

        Assert.InRange((byScore - scores.grad!).abs().max().item<float>(), 0, 1e-6);
        Same(hidden.grad!, byHidden);
    }

    [Fact]
    public void A_graph_outlives_the_plan_and_the_scope_and_leaves_no_tensor_behind()
    {
        TensorLeaks.None(() =>
        {
            using var scope = torch.NewDisposeScope();
            var hidden = torch.randn(2, 7, 4, requires_grad: true);
            Tensor loss;
            using (torch.NewDisposeScope())
            {
                using var plan = TokenPlan.Select(torch.rand(2, 7), Budget.Count(3));
                loss = plan.Apply(hidden.view(2, 7, 4)).sum().MoveToOuterDisposeScope();
            }

            loss.backward();
            Assert.Equal(24, hidden.grad!.sum().item<float>());
        });
    }

    [Fact]
    public void A_selection_among_visual_tokens_becomes_one_of_the_sequence()
    {
        using var scope = torch.NewDisposeScope();
        using var visual = TokenPlan.Select(torch.tensor([1f, 3, 2, 5, 0, 4]).view(2, 3), Budget.Count(1));
        using var plan = visual.Within(first: 2, length: 6);

        Same(torch.tensor([0L, 1, 3, 5, 0, 1, 2, 5]).view(2, 4), plan.Positions());
        Assert.Throws<ArgumentOutOfRangeException>(() => visual.Within(4, 6));
    }

    [Fact]
    public void Diverse_tokens_are_those_of_the_kernel()
    {
        using var scope = torch.NewDisposeScope();
        var tokens = torch.randn(2, 12, 8);
        using var plan = TokenPlan.Diverse(tokens, 4);
        for (var b = 0; b < 2; b++)
        {
            var indices = new int[4];
            TokenDiversity.Run(
                tokens[b].contiguous().data<float>().ToArray(), 8, [0, 12], 4, new() { Indices = indices, Offsets = new int[2] });
            Assert.Equal(indices, plan.Positions()[b].data<long>().Select(i => (int)i));
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name_and_changes_nothing()
    {
        using var scope = torch.NewDisposeScope();
        var scores = torch.rand(2, 7);
        Refused<ArgumentException>("scores", () => TokenPlan.Select(torch.rand(2, 7, 1), Budget.Count(1)));
        Refused<ArgumentException>("Float64", () => TokenPlan.Select(torch.rand(2, 7, dtype: torch.float64), Budget.Count(1)));
        Refused<ArgumentException>("8", () => TokenPlan.Select(scores, Budget.Count(8)));
        Refused<ArgumentException>("cuSeqlens", () => TokenPlan.Select(torch.rand(7), Budget.Count(1), torch.tensor([0, 3, 6])));
        Refused<ArgumentException>("cuSeqlens", () => TokenPlan.Select(scores, Budget.Count(1), torch.tensor([0, 8, 14])));
        Refused<ArgumentException>("cuSeqlens", () => TokenPlan.Select(scores, Budget.Count(1), torch.tensor([0, 7, 9, 14])));
        Refused<ArgumentException>("cuSeqlens", () => TokenPlan.Select(scores, Budget.Count(1), torch.tensor([0L, 7, 14])));
        Refused<ArgumentException>("always", () => TokenPlan.Select(scores, Budget.Count(1), always: torch.ones(2, 6, torch.@bool)));
        Refused<ArgumentException>("always", () => TokenPlan.Select(scores, Budget.Count(1), always: torch.ones(2, 7)));
        Refused<BackendUnavailableException>("Ilgpu", () => TokenPlan.Select(scores, Budget.Count(1), backend: AuxBackend.Ilgpu));

        using var plan = TokenPlan.Select(scores, Budget.Count(3));
        Refused<ArgumentException>("2 images of 8 tokens", () => plan.Apply(torch.randn(2, 8, 4)));
        Refused<ArgumentException>("made for 2 images of 7", () => plan.Apply(torch.randn(3, 7, 4)));
        Refused<ArgumentException>("no dimension", () => plan.Apply(torch.randn(14)));
        Refused<ArgumentException>("scaleByScore", () => plan.Apply(torch.randn(2, 7, 4), torch.rand(2, 8)));
        Refused<ArgumentException>("scaleByScore", () => plan.Apply(torch.randn(2, 7, 4), torch.rand(2, 7, dtype: torch.float64)));
        Refused<ArgumentException>("positions", () => plan.Positions(positions: torch.arange(7)));
        Refused<ArgumentException>("positions", () => plan.Positions(positions: torch.rand(2, 7)));
        Refused<ArgumentException>("positions", () => plan.Positions(positions: torch.zeros(1, 1, 2, 7, torch.int64)));
        Refused<ArgumentOutOfRangeException>("mode", () => plan.Positions((PositionMode)7));

        var (keys, values) = (torch.randn(2, 4, 7, 5), torch.randn(2, 4, 8, 5));
        var before = keys.clone();
        Refused<ArgumentException>("layers[1].Values", () => plan.ApplyTo([(keys, keys.clone()), (keys.clone(), values)], inPlace: true));
        Refused<ArgumentException>("layers[0].Keys", () => plan.ApplyTo([(keys[0], keys)], inPlace: true));
        Refused<InvalidOperationException>(
            "layers[0].Values", () => plan.ApplyTo([(keys, keys.clone().requires_grad_())], inPlace: true));
        Same(before, keys);

        plan.Dispose();
        Assert.Throws<ObjectDisposedException>(() => plan.Apply(torch.randn(2, 7, 4)));
        Assert.Throws<ObjectDisposedException>(() => plan.Keep());
    }

    internal static void Same(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.shape, actual.shape);
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.True(
            expected.numel() == 0 || expected.eq(actual).all().item<bool>(), $"expected {expected.cstr()}\nactual {actual.cstr()}");
    }

    internal static void Refused<T>(string words, Action action) where T : Exception =>
        Assert.Contains(words, Assert.ThrowsAny<T>(action).Message, StringComparison.Ordinal);

    private static int[] Bits(Tensor tensor) => [.. tensor.data<float>().Select(BitConverter.SingleToInt32Bits)];
}
