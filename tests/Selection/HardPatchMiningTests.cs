using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.PatchSelection;

[RequiresLibtorch]
public class HardPatchMiningTests
{
    private const string Predictor = "loss_predictor.";

    private static readonly HardPatchMiningSettings Settings = new() { Epochs = 4, Teacher = EmaSchedule.Constant(0.9), Seed = 5 };

    [Fact]
    public void The_teacher_is_the_moving_average_and_sees_whole_images()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        using var mining = new HardPatchMining(autoencoder, Settings);
        using var optimizer = new AdamW(autoencoder.parameters(), 1e-2);
        var images = torch.randn(4, 1, 12, 12);
        var expected = autoencoder.state_dict().ToDictionary(entry => entry.Key, entry => entry.Value.detach().clone());
        for (var step = 0; step < 3; step++)
        {
            optimizer.zero_grad();
            mining.Loss(images, epoch: 3).backward();
            optimizer.step();
            mining.UpdateTeacher();
            foreach (var (name, value) in autoencoder.state_dict())
                expected[name] = expected[name] * 0.9 + value.detach() * 0.1;
        }

        using var teacher = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        mining.Teacher.CopyTo(teacher);
        foreach (var (name, value) in teacher.state_dict())
            Assert.True(torch.allclose(expected[name], value, atol: 1e-6), name);
        var before = autoencoder.state_dict().ToDictionary(entry => entry.Key, entry => entry.Value.detach().clone());

        var predicted = mining.PredictByTeacher(images);

        Assert.True(MaskedAutoencoderTests.Same(teacher.PredictLosses(images).detach(), predicted));
        Assert.False(torch.allclose(autoencoder.PredictLosses(images).detach(), predicted));
        Assert.False(predicted.requires_grad);
        Assert.All(autoencoder.state_dict(), entry => Assert.True(MaskedAutoencoderTests.Same(before[entry.Key], entry.Value.detach())));
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(1, 3)]
    [InlineData(3, 6)]
    public void The_mask_hides_what_the_teacher_finds_hardest(int epoch, int hard)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(2);
        using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        using var mining = new HardPatchMining(autoencoder, Settings);
        using (torch.no_grad()) // the student is another one now
            autoencoder.parameters().ToList().ForEach(parameter => parameter.mul_(-0.5));
        var images = torch.randn(6, 1, 12, 12);
        var predicted = mining.PredictByTeacher(images);

        using var mask = mining.Mask(images, epoch);

        Assert.Equal(hard, mask.HardCount);
        Assert.Equal([6, 12], mask.Hidden.shape);
        for (var image = 0; image < 6; image++)
            Assert.Empty(HardPatchMinerTests.Hardest(predicted[image], hard).Except(mask.Hidden[image].data<long>()));
    }

    [Fact]
    public void Reconstruction_and_prediction_are_added_and_the_target_is_cut()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(3);
        using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        using var mining = new HardPatchMining(autoencoder, Settings with { PredictionWeight = 2 });
        var images = torch.randn(4, 1, 12, 12);
        using var mask = mining.Mask(images, 2);
        var (losses, predicted) = autoencoder.PatchLosses(images, mask);
        var prediction = LossPredictor.Loss(predicted!, losses);

        var loss = mining.Loss(images, mask);

        Assert.Equal(losses.mean().item<float>(), mining.Terms.Reconstruction, 1e-6);
        Assert.Equal(prediction.item<float>(), mining.Terms.Prediction, 1e-6);
        Assert.Equal(mining.Terms.Reconstruction + 2 * mining.Terms.Prediction, loss.item<float>(), 1e-5);

        // The prediction trains the predictor and, through its tokens, the encoder, but not what reconstructs.
        prediction.backward();
        foreach (var (name, parameter) in autoencoder.named_parameters())
        {
            if (name.StartsWith("decoder.", StringComparison.Ordinal))
                Assert.Null(parameter.grad);
            else if (name != "loss_predictor.trunk.head.bias") // differences do not know it
                Assert.True(parameter.grad!.abs().max().item<float>() > 0, name);
        }

        // What reconstructs has the gradient of the reconstruction alone.
        autoencoder.zero_grad();
        autoencoder.Loss(images, mask).backward();
        var alone = Gradients("decoder.");
        autoencoder.zero_grad();
        mining.Loss(images, mask).backward();
        Assert.All(Gradients("decoder."), entry => Assert.True(torch.allclose(alone[entry.Key], entry.Value, atol: 1e-7), entry.Key));
        Assert.NotEmpty(Gradients(Predictor));

        Dictionary<string, Tensor> Gradients(string prefix) => autoencoder.named_parameters()
            .Where(entry => entry.name.StartsWith(prefix, StringComparison.Ordinal) && entry.parameter.grad is not null)
            .ToDictionary(entry => entry.name, entry => entry.parameter.grad!.clone());
    }

    [Fact]
    public void The_predictor_learns_which_patches_are_hard()
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(4);
        using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        using var mining = new HardPatchMining(autoencoder, Settings);
        using var optimizer = new AdamW(autoencoder.parameters(), 3e-3);
        // Noise in the left half of the image, nothing in the right one.
        Tensor Images() => torch.cat([torch.randn(16, 1, 12, 6), torch.zeros(16, 1, 12, 6)], 3);
        for (var step = 0; step < 60; step++)
        {
            using var each = torch.NewDisposeScope();
            optimizer.zero_grad();
            mining.Loss(Images(), epoch: 0).backward();
            optimizer.step();
            mining.UpdateTeacher();
        }

        using var mask = mining.Mask(Images(), epoch: 3);
        var predicted = mining.PredictByTeacher(Images()).mean([0]).view(4, 4);

        Assert.True(predicted.narrow(1, 0, 2).min().item<float>() > predicted.narrow(1, 2, 2).max().item<float>());
        Assert.Equal(6, mask.HardCount); // of the 8 noisy patches
    }

    [Fact]
    public void The_seed_decides()
    {
        float Train(int seed)
        {
            using var scope = torch.NewDisposeScope();
            torch.manual_seed(6);
            using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
            using var mining = new HardPatchMining(autoencoder, Settings with { Seed = seed });
            using var optimizer = new AdamW(autoencoder.parameters(), 1e-2);
            var images = torch.randn(4, 1, 12, 12);
            for (var step = 0; step < 4; step++)
            {
                optimizer.zero_grad();
                mining.Loss(images, step).backward();
                optimizer.step();
                mining.UpdateTeacher();
            }

            return autoencoder.parameters().Select(parameter => parameter.sum().item<float>()).Sum();
        }

        Assert.Equal(Train(1), Train(1));
        Assert.NotEqual(Train(1), Train(2));
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        using var without = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny with { PredictLosses = false });
        HardPatchMinerTests.Refused<ArgumentException>("no loss predictor", () => _ = new HardPatchMining(without, Settings));
        HardPatchMinerTests.Refused<ArgumentNullException>("autoencoder", () => _ = new HardPatchMining(null!, Settings));
        HardPatchMinerTests.Refused<ArgumentException>(
            "hides 16 of 16", () => _ = new HardPatchMining(autoencoder, Settings with { MaskRatio = 0.99 }));
        foreach (var (words, settings) in ((string, HardPatchMiningSettings)[])
            [
                ("settings.Epochs", Settings with { Epochs = 0 }), ("settings.MaskRatio", Settings with { MaskRatio = double.NaN }),
                ("settings.MaxHardShare", Settings with { MaxHardShare = 1.5 }),
                ("settings.PredictionWeight", Settings with { PredictionWeight = double.PositiveInfinity }),
                ("settings.Prediction", Settings with { Prediction = (LossPrediction)9 }),
                ("settings.Teacher", Settings with { Teacher = null! }),
            ])
            HardPatchMinerTests.Refused<ArgumentException>(words, () => _ = new HardPatchMining(autoencoder, settings));

        var mining = new HardPatchMining(autoencoder, Settings);
        var images = torch.zeros(2, 1, 12, 12);
        HardPatchMinerTests.Refused<ArgumentOutOfRangeException>("epoch", () => mining.Loss(images, 4));
        HardPatchMinerTests.Refused<ArgumentException>("Float32[2, 12, 12]", () => mining.Loss(images.squeeze(1), 0));
        HardPatchMinerTests.Refused<ArgumentNullException>("mask", () => mining.Loss(images, null!));
        mining.Dispose();
        mining.Dispose();
        HardPatchMinerTests.Refused<ObjectDisposedException>(nameof(HardPatchMining), () => mining.Loss(images, 0));
        HardPatchMinerTests.Refused<ObjectDisposedException>(nameof(HardPatchMining), mining.UpdateTeacher);
    }

    [Fact]
    public void Nothing_is_left_behind() => TensorLeaks.None(() =>
    {
        using var autoencoder = new MaskedAutoencoder(MaskedAutoencoderTests.Tiny);
        using var mining = new HardPatchMining(autoencoder, Settings);
        using var images = torch.randn(2, 1, 12, 12);
        mining.Loss(images, 3).Dispose();
        mining.UpdateTeacher();
    });
}
