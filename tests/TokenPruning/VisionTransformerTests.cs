using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using static AuxCore.Tests.TokenPruning.TokenPlanTests;

namespace AuxCore.Tests.TokenPruning;

[RequiresLibtorch]
public class VisionTransformerTests
{
    private static readonly VisionTransformerOptions Options =
        new() { Side = 20, Patch = 5, Channels = 2, Width = 16, Depth = 3, Heads = 2, Classes = 7 };

    [Fact]
    public void Keeping_all_tokens_changes_no_bit()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model(1);
        var images = torch.randn(3, 2, 20, 20);
        var expected = model.forward(images);

        model.Pruning =
            [(0, new StridePolicy(Budget.Ratio(1))), (1, new ClsAttentionPolicy(Budget.TopP(1))), (2, new DivPrune(Budget.Ratio(1)))];
        Same(expected, model.forward(images));
        Assert.Equal([3, 7], expected.shape);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void A_pruned_model_is_one_whose_later_attention_does_not_see_the_pruned_tokens(int block)
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model(2);
        var images = torch.randn(3, 2, 20, 20);
        model.Pruning = [(block, new ClsAttentionPolicy(Budget.Count(5)))];
        var reductions = new List<TokenReduction>();
        var pruned = model.forward(images, reductions);
        var keep = ((TokenPlan)Assert.Single(reductions)).Keep();

        // All tokens, reordered so that the kept ones come first: what is behind them is not seen.
        var tokens = model.Embed(images);
        for (var b = 0; b < Options.Depth; b++)
        {
            var (attended, layer) = model.Block(b).Attend(tokens);
            if (b == block)
            {
                var order = (torch.arange(keep.shape[1]) - keep.to(torch.int64) * 1000).argsort(1);
                var rows = attended.Hidden.gather(1, order.unsqueeze(2).expand(attended.Hidden.shape));
                attended = attended with { Hidden = rows, Lengths = reductions[0].Counts };
            }

            tokens = model.Block(b).Finish(attended, layer);
        }

        Assert.InRange((model.Classify(tokens) - pruned).abs().max().item<float>(), 0, 1e-5);
        reductions[0].Dispose();
    }

    [Fact]
    public void Images_that_keep_different_numbers_do_not_depend_on_their_batch()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model(3);
        var images = torch.randn(5, 2, 20, 20) * torch.tensor([0.1f, 1, 2, 4, 8]).view(5, 1, 1, 1);
        model.Pruning = [(0, new ClsAttentionPolicy(Budget.TopP(0.5))), (1, new PruMerge())];
        var reductions = new List<TokenReduction>();
        var together = model.forward(images, reductions);
        Assert.True(reductions[0].Counts.Distinct().Count() > 1);
        for (var b = 0; b < 5; b++)
            Assert.InRange((model.forward(images.narrow(0, b, 1)) - together[b]).abs().max().item<float>(), 0, 1e-5);
        reductions.ForEach(reduction => reduction.Dispose());
    }

    [Fact]
    public void Merging_equal_tokens_changes_nothing_because_attention_is_proportional()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model(4);
        using (torch.no_grad())
            model.get_parameter("positions")!.fill_(0);
        var images = torch.ones(2, 2, 20, 20); // all patches are alike
        var expected = model.forward(images);

        model.Pruning = [(0, new ToMe(Budget.Count(6))), (1, new ToMe(Budget.Count(2)))];
        Assert.InRange((model.forward(images) - expected).abs().max().item<float>(), 0, 1e-5);
        model.Pruning = [(0, new StridePolicy(Budget.Count(2)))]; // drops, so the class token weighs more
        Assert.True((model.forward(images) - expected).abs().max().item<float>() > 1e-3);
    }

    [Fact]
    public void Training_through_any_policy_reaches_every_parameter()
    {
        foreach (var policy in (TokenPolicy[])
            [
                new ClsAttentionPolicy(Budget.Ratio(0.25)), new ToMe(Budget.Ratio(0.25)), new VisionZip(Budget.Ratio(0.25), 2),
                new PruMerge(plus: true), new PoolingPolicy(PoolGrid.Window(4, 4, 2, 2)),
            ])
        {
            TensorLeaks.None(() =>
            {
                using var scope = torch.NewDisposeScope();
                using var model = Model(5);
                model.Pruning = [(1, policy)];
                model.forward(torch.randn(3, 2, 20, 20)).square().sum().backward();
                Assert.All(model.named_parameters(), entry => Assert.True(
                    entry.parameter.grad!.isfinite().all().item<bool>() && entry.parameter.grad.abs().sum().item<float>() > 0, entry.name));
            });
        }
    }

    [Fact]
    public void The_gradient_is_the_slope_of_the_loss()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model(6);
        model.Pruning = [(0, new ToMe(Budget.Count(9))), (1, new ClsAttentionPolicy(Budget.Count(4)))];
        var (images, direction) = (torch.randn(2, 2, 20, 20).requires_grad_(), torch.randn(2, 2, 20, 20));
        model.forward(images).sum().backward();
        var slope = (images.grad! * direction).sum().item<float>();

        // Steps small enough to change no decision of the policies.
        const double Step = 1e-3;
        using var noGrad = torch.no_grad();
        var rise = (model.forward(images + direction * Step).sum() - model.forward(images - direction * Step).sum()).item<float>();
        Assert.Equal(slope, rise / (2 * Step), 0.02 * Math.Abs(slope) + 0.02);
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        using var model = Model(1);
        Refused<ArgumentException>("images", () => model.forward(torch.randn(3, 2, 20, 21)));
        Refused<ArgumentException>("images", () => model.forward(torch.randn(3, 1, 20, 20)));
        Refused<ArgumentException>("images", () => model.forward(torch.randn(2, 20, 20)));
        Refused<ArgumentException>("images", () => model.forward(torch.randn(3, 2, 20, 20, dtype: torch.float64)));
        Refused<ArgumentException>("no block 3", () => model.Pruning = [(3, new StridePolicy(Budget.Count(1)))]);
        var policy = new StridePolicy(Budget.Count(1));
        Refused<ArgumentException>("named twice", () => model.Pruning = [(1, policy), (1, policy)]);
        Assert.Empty(model.Pruning);
        Refused<ArgumentException>("Patch: 6 does not divide", () => _ = new VisionTransformer(Options with { Patch = 6 }));
        Refused<ArgumentException>("Heads: 3 do not divide", () => _ = new VisionTransformer(Options with { Heads = 3 }));
        Refused<ArgumentException>("Depth is 0", () => _ = new VisionTransformer(Options with { Depth = 0 }));
    }

    private static VisionTransformer Model(int seed)
    {
        torch.manual_seed(seed);
        return new(Options);
    }
}
