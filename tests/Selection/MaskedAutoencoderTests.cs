using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.PatchSelection;

[RequiresLibtorch]
public class MaskedAutoencoderTests
{
    internal static readonly MaskedAutoencoderSettings Tiny = new()
    {
        Side = 12, Patch = 3, Width = 16, Depth = 2, Heads = 2, DecoderWidth = 8, DecoderHeads = 2, PredictLosses = true,
    };

    [Fact]
    public void What_is_hidden_changes_neither_the_tokens_nor_the_reconstruction()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var autoencoder = new MaskedAutoencoder(Tiny with { Channels = 2 });
        using var miner = new HardPatchMiner();
        var images = torch.randn(3, 2, 12, 12);
        using var mask = miner.Random(3, 16);
        var pixels = Pixels(mask, channels: 2);
        var other = torch.where(pixels, torch.randn(3, 2, 12, 12), images);
        var seen = torch.where(pixels, images, torch.randn(3, 2, 12, 12));

        Assert.Equal([3, 4, 16], autoencoder.Encode(images, mask).shape);
        Assert.True(Same(autoencoder.Encode(images, mask), autoencoder.Encode(other, mask)));
        Assert.True(Same(autoencoder.Reconstruct(images, mask), autoencoder.Reconstruct(other, mask)));
        Assert.False(Same(autoencoder.Encode(images, mask), autoencoder.Encode(seen, mask)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_losses_are_those_of_the_hidden_patches(bool normalise)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(2);
        using var autoencoder = new MaskedAutoencoder(Tiny with { Channels = 2, NormalisePixels = normalise });
        using var miner = new HardPatchMiner(0.5);
        var images = torch.randn(2, 2, 12, 12);
        using var mask = miner.Random(2, 16);
        var reconstructed = autoencoder.Reconstruct(images, mask);

        var (losses, predicted) = autoencoder.PatchLosses(images, mask);

        Assert.Equal([2, 8], losses.shape);
        Assert.Equal([2, 8], predicted!.shape);
        for (var image = 0; image < 2; image++)
        {
            for (var i = 0; i < 8; i++)
            {
                var patch = (int)mask.Hidden[image, i].item<long>();
                var (row, column) = (patch / 4 * 3, patch % 4 * 3);
                using var pixels = images[image].narrow(1, row, 3).narrow(2, column, 3).contiguous();
                double[] wanted = [.. pixels.data<float>().Select(x => (double)x)];
                if (normalise)
                {
                    var mean = wanted.Average();
                    var deviation = Math.Sqrt(wanted.Average(x => (x - mean) * (x - mean)) + 1e-6);
                    wanted = [.. wanted.Select(x => (x - mean) / deviation)];
                }

                var found = reconstructed[image, patch].data<float>().ToArray();
                var expected = wanted.Zip(found, (x, y) => (x - y) * (x - y)).Average();
                Assert.Equal(expected, losses[image, i].item<float>(), 1e-5);
            }
        }

        Assert.Equal(losses.mean().item<float>(), autoencoder.Loss(images, mask).item<float>(), 1e-6);
    }

    [Fact]
    public void Whole_images_are_encoded_as_by_a_mask_that_hides_least()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(3);
        using var autoencoder = new MaskedAutoencoder(Tiny);
        var images = torch.randn(2, 1, 12, 12);
        var features = autoencoder.forward(images);
        Assert.Equal([2, 16, 16], features.shape);
        Assert.Equal([2, 16], autoencoder.PredictLosses(images).shape);
        Assert.Null(new MaskedAutoencoder(Tiny with { PredictLosses = false }).LossPredictor);

        // Patches that trade places give other tokens: there are positions.
        var swapped = torch.cat([images.narrow(3, 3, 3), images.narrow(3, 0, 3), images.narrow(3, 6, 6)], 3);
        Assert.False(torch.allclose(autoencoder.forward(swapped).mean([1]), features.mean([1])));
    }

    [Fact]
    public void The_state_dict_is_that_of_the_parameters_and_the_predictor_adds_to_it_only()
    {
        torch.manual_seed(4);
        using var with = new MaskedAutoencoder(Tiny);
        torch.manual_seed(4);
        using var without = new MaskedAutoencoder(Tiny with { PredictLosses = false });
        Assert.Equal([.. with.named_parameters().Select(entry => entry.name).Order()], with.state_dict().Keys.Order());
        Assert.Contains("encoder.blocks.1.attention_norm.weight", with.state_dict().Keys);
        using var parent = torch.nn.Sequential(("autoencoder", (torch.nn.Module<Tensor, Tensor>)with));
        Assert.Equal(with.state_dict().Keys.Select(name => "autoencoder." + name), parent.state_dict().Keys);
        var plain = without.state_dict();
        foreach (var (name, tensor) in with.state_dict())
        {
            if (name.StartsWith("loss_predictor.", StringComparison.Ordinal))
                Assert.False(plain.ContainsKey(name));
            else
                Assert.True(Same(tensor, plain[name]), name);
        }
    }

    [Fact]
    public void A_gradient_reaches_every_parameter_of_the_reconstruction_and_none_of_the_predictor()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(5);
        using var autoencoder = new MaskedAutoencoder(Tiny);
        using var miner = new HardPatchMiner();
        using var mask = miner.Random(2, 16);
        autoencoder.Loss(torch.randn(2, 1, 12, 12), mask).backward();
        foreach (var (name, parameter) in autoencoder.named_parameters())
        {
            if (name.StartsWith("loss_predictor.", StringComparison.Ordinal))
                Assert.Null(parameter.grad);
            else
                Assert.True(parameter.grad!.abs().max().item<float>() > 0, name);
        }
    }

    [Fact]
    public void Sizes_that_do_not_go_together_are_refused_by_name()
    {
        foreach (var (words, settings) in ((string, MaskedAutoencoderSettings)[])
            [
                ("settings.Side is 13", Tiny with { Side = 13 }), ("one patch only", Tiny with { Patch = 12 }),
                ("settings.Width is 18", Tiny with { Width = 18 }), ("its 3 heads", Tiny with { Heads = 3 }),
                ("settings.DecoderWidth is 6", Tiny with { DecoderWidth = 6 }), ("settings.Depth", Tiny with { Depth = 0 }),
                ("settings.Channels", Tiny with { Channels = 0 }), ("settings.DecoderDepth", Tiny with { DecoderDepth = -1 }),
            ])
            HardPatchMinerTests.Refused<ArgumentException>(words, () => _ = new MaskedAutoencoder(settings));
        HardPatchMinerTests.Refused<ArgumentNullException>("settings", () => _ = new MaskedAutoencoder(null!));
    }

    [Fact]
    public void Images_and_masks_that_do_not_fit_are_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        using var autoencoder = new MaskedAutoencoder(Tiny with { PredictLosses = false });
        using var miner = new HardPatchMiner();
        using var mask = miner.Random(2, 16);
        using var smaller = miner.Random(2, 9);
        var images = torch.zeros(2, 1, 12, 12);
        HardPatchMinerTests.Refused<ArgumentException>("input: Float32[2, 1, 12, 9]", () => autoencoder.forward(images.narrow(3, 0, 9)));
        HardPatchMinerTests.Refused<ArgumentException>("Float64", () => autoencoder.Loss(images.to(torch.float64), mask));
        HardPatchMinerTests.Refused<ArgumentException>("Float32[0, 1, 12, 12]", () => autoencoder.forward(images.narrow(0, 0, 0)));
        HardPatchMinerTests.Refused<ArgumentException>(
            "of 2 images of 16 patches, not of 1", () => autoencoder.Loss(images.narrow(0, 0, 1), mask));
        HardPatchMinerTests.Refused<ArgumentException>("of 9 patches, not of 2 of 16", () => autoencoder.Encode(images, smaller));
        HardPatchMinerTests.Refused<ArgumentNullException>("mask", () => autoencoder.Reconstruct(images, null!));
        HardPatchMinerTests.Refused<InvalidOperationException>("PredictLosses", () => autoencoder.PredictLosses(images));
        images.Dispose();
        HardPatchMinerTests.Refused<ObjectDisposedException>("images", () => autoencoder.PatchLosses(images, mask));
    }

    [Fact]
    public void Nothing_is_left_behind() => TensorLeaks.None(() =>
    {
        using var autoencoder = new MaskedAutoencoder(Tiny);
        using var miner = new HardPatchMiner();
        using var images = torch.randn(2, 1, 12, 12);
        using (var mask = miner.Random(2, 16))
        {
            autoencoder.Encode(images, mask).Dispose();
            autoencoder.Reconstruct(images, mask).Dispose();
            var (losses, predicted) = autoencoder.PatchLosses(images, mask);
            losses.Dispose();
            predicted!.Dispose();
        }

        autoencoder.forward(images).Dispose();
        autoencoder.PredictLosses(images).Dispose();
    });

    internal static bool Same(Tensor left, Tensor right) => left.eq(right).all().item<bool>();

    // Which pixels are of hidden patches: bool [n, channels, 12, 12].
    private static Tensor Pixels(PatchMask mask, int channels) => mask.ToTensor().view(-1, 1, 4, 4)
        .repeat_interleave(3, 2).repeat_interleave(3, 3).expand(-1, channels, 12, 12);
}
