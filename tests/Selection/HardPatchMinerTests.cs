using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.PatchSelection;

[RequiresLibtorch]
public class HardPatchMinerTests
{
    [Theory]
    [InlineData(64, 0.75, 0.5, 48, 24)]
    [InlineData(64, 0.75, 0.05, 48, 2)]
    [InlineData(64, 0.75, 0.02, 48, 0)]
    [InlineData(49, 0.75, 0.3, 37, 11)]
    [InlineData(16, 0.5, 1, 8, 8)]
    [InlineData(2, 0.5, 0.9, 1, 0)]
    public void As_many_patches_of_each_image_are_hidden_and_hard_as_asked_for(
        int patches, double ratio, double share, int hidden, int hard)
    {
        const int Images = 9;
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var miner = new HardPatchMiner(ratio, seed: 3);
        var losses = torch.randn(Images, patches);

        using var mask = miner.Mask(losses, share);

        Assert.Equal((patches, Images, hard), (mask.Patches, mask.Images, mask.HardCount));
        Assert.Equal([Images, hidden], mask.Hidden.shape);
        Assert.Equal([Images, patches - hidden], mask.Visible.shape);
        var isHidden = mask.ToTensor();
        for (var image = 0; image < Images; image++)
        {
            long[] gone = [.. mask.Hidden[image].data<long>()], seen = [.. mask.Visible[image].data<long>()];
            Assert.Equal(gone.Order(), gone);
            Assert.Equal(seen.Order(), seen);
            Assert.Equal(Enumerable.Range(0, patches).Select(i => (long)i), gone.Concat(seen).Order());
            Assert.Equal(gone, Enumerable.Range(0, patches).Where(i => isHidden[image, i].item<bool>()).Select(i => (long)i));
            Assert.Empty(Hardest(losses[image], hard).Except(gone));
        }
    }

    [Fact]
    public void The_rest_is_random_and_the_hardest_are_not()
    {
        using var scope = torch.NewDisposeScope();
        using var miner = new HardPatchMiner(0.5, seed: 1);
        var losses = torch.arange(16, dtype: torch.float32).expand(400, 16);

        using var mask = miner.Mask(losses, 0.5);

        // Of 16 patches 8 are hidden: the last 4 always, and 4 of the other 12, each a third of the time.
        var share = mask.ToTensor().to(torch.float32).mean([0]).data<float>().ToArray();
        Assert.All(share[12..], value => Assert.Equal(1, value));
        Assert.All(share[..12], value => Assert.InRange(value, 0.2, 0.47));
    }

    [Fact]
    public void Of_equal_losses_the_first_is_harder_and_a_NaN_is_never()
    {
        using var scope = torch.NewDisposeScope();
        using var miner = new HardPatchMiner(0.5, seed: 1);
        var losses = torch.tensor([float.NaN, 1, 1, 1, float.NaN, 1, 0, float.NegativeInfinity]).unsqueeze(0);
        using var mask = miner.Mask(losses, 0.75);
        Assert.Equal(3, mask.HardCount);
        Assert.Empty(new long[] { 1, 2, 3 }.Except(mask.Hidden.data<long>()));
    }

    [Fact]
    public void The_seed_decides_and_libtorchs_generator_does_not()
    {
        using var scope = torch.NewDisposeScope();
        var losses = torch.randn(5, 32);
        long[] Masks(int seed, int torchSeed)
        {
            torch.manual_seed(torchSeed);
            using var miner = new HardPatchMiner(seed: seed);
            using var first = miner.Mask(losses, 0.3);
            using var second = miner.Random(5, 32);
            return [.. first.Hidden.data<long>(), .. second.Hidden.data<long>()];
        }

        Assert.Equal(Masks(1, 1), Masks(1, 2));
        Assert.NotEqual(Masks(1, 1), Masks(2, 1));
    }

    [Fact]
    public void Without_hard_patches_a_mask_is_that_of_random_masking()
    {
        using var scope = torch.NewDisposeScope();
        using var left = new HardPatchMiner(seed: 4);
        using var right = new HardPatchMiner(seed: 4);
        for (var i = 0; i < 3; i++)
        {
            using var mined = left.Mask(torch.randn(4, 16), i == 1 ? 0.5 : 0); // one with hard patches draws as many random numbers
            using var random = right.Random(4, 16);
            if (i != 1)
                Assert.Equal(random.Hidden.data<long>().ToArray(), mined.Hidden.data<long>().ToArray());
        }
    }

    [Fact]
    public void The_share_grows_epoch_by_epoch_to_the_most()
    {
        Assert.Equal(0.5 / 10, HardPatchMiner.HardShareAt(0, 10), 1e-15);
        Assert.Equal(0.25, HardPatchMiner.HardShareAt(4, 10), 1e-15);
        Assert.Equal(0.5, HardPatchMiner.HardShareAt(9, 10), 1e-15);
        Assert.Equal(0.8, HardPatchMiner.HardShareAt(0, 1, 0.8), 1e-15);
        Assert.Equal(0, HardPatchMiner.HardShareAt(2, 3, 0));
        Refused<ArgumentOutOfRangeException>("epoch", () => HardPatchMiner.HardShareAt(-1, 10));
        Refused<ArgumentOutOfRangeException>("epoch", () => HardPatchMiner.HardShareAt(10, 10));
        Refused<ArgumentOutOfRangeException>("epochs", () => HardPatchMiner.HardShareAt(0, 0));
        Refused<ArgumentOutOfRangeException>("most", () => HardPatchMiner.HardShareAt(0, 1, double.NaN));
        Refused<ArgumentOutOfRangeException>("most", () => HardPatchMiner.HardShareAt(0, 1, 1.1));
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        foreach (var ratio in (double[])[0, 1, double.NaN, -0.1])
            Refused<ArgumentOutOfRangeException>("maskRatio", () => _ = new HardPatchMiner(ratio));
        var miner = new HardPatchMiner();
        Refused<ArgumentNullException>("predictedLosses", () => miner.Mask(null!, 0.5));
        Refused<ArgumentException>("Float64[2, 8]", () => miner.Mask(torch.zeros(2, 8, torch.float64), 0.5));
        Refused<ArgumentException>("Float32[8]", () => miner.Mask(torch.zeros(8), 0.5));
        Refused<ArgumentException>("Float32[0, 8]", () => miner.Mask(torch.zeros(0, 8), 0.5));
        Refused<ArgumentException>("hides 1 of 1", () => miner.Mask(torch.zeros(2, 1), 0.5));
        Refused<ArgumentException>("hides 1 of 1", () => miner.Random(2, 1));
        Refused<ArgumentOutOfRangeException>("images", () => miner.Random(0, 8));
        Refused<ArgumentOutOfRangeException>("hardShare", () => miner.Mask(torch.zeros(2, 8), -0.1));
        Refused<ArgumentOutOfRangeException>("hardShare", () => miner.Mask(torch.zeros(2, 8), double.NaN));
        var gone = torch.zeros(2, 8);
        gone.Dispose();
        Refused<ObjectDisposedException>("predictedLosses", () => miner.Mask(gone, 0.5));
        var mask = miner.Random(2, 8);
        mask.Dispose();
        Refused<ObjectDisposedException>(nameof(PatchMask), () => mask.ToTensor());
        miner.Dispose();
        Refused<ObjectDisposedException>(nameof(HardPatchMiner), () => miner.Random(2, 8));
    }

    [Fact]
    public void Nothing_is_left_behind() => TensorLeaks.None(() =>
    {
        using var miner = new HardPatchMiner();
        using var losses = torch.randn(3, 16);
        miner.Mask(losses, 0.5).Dispose();
        miner.Random(3, 16).Dispose();
    });

    internal static void Refused<T>(string words, Action action) where T : Exception =>
        Assert.Contains(words, Assert.ThrowsAny<T>(action).Message, StringComparison.Ordinal);

    internal static IEnumerable<long> Hardest(Tensor losses, int count) => losses.data<float>().ToArray()
        .Select((loss, i) => (loss, i)).OrderByDescending(pair => pair.loss).Take(count).Select(pair => (long)pair.i);
}
