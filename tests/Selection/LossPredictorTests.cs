using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests.PatchSelection;

[RequiresLibtorch]
public class LossPredictorTests
{
    private static readonly float[,] Predicted = { { 0.3f, -1.2f, 2, 0.1f }, { 1, 1, -3, 0.5f } };
    private static readonly float[,] Losses = { { 4, 1, 1, 9 }, { 2, 2, 2, 2 } };

    [Fact]
    public void The_relative_loss_is_the_mean_cross_entropy_of_pairs_that_differ()
    {
        using var scope = torch.NewDisposeScope();
        var (sum, pairs) = (0.0, 0);
        for (var image = 0; image < 2; image++)
        {
            for (var i = 0; i < 4; i++)
            {
                for (var j = 0; j < 4; j++)
                {
                    if (Losses[image, i] == Losses[image, j])
                        continue;
                    var greater = 1 / (1 + Math.Exp(Predicted[image, j] - Predicted[image, i])); // that of i
                    sum -= Math.Log(Losses[image, i] > Losses[image, j] ? greater : 1 - greater);
                    pairs++;
                }
            }
        }

        Assert.Equal(10, pairs); // all of the first image's but for one tie, none of the second's

        var loss = LossPredictor.Loss(torch.tensor(Predicted), torch.tensor(Losses));

        Assert.Equal(sum / pairs, loss.item<float>(), 1e-6);
    }

    [Fact]
    public void The_relative_loss_knows_the_order_only_and_stays_finite()
    {
        using var scope = torch.NewDisposeScope();
        var predicted = torch.tensor(Predicted);
        var losses = torch.tensor(Losses);
        var loss = LossPredictor.Loss(predicted, losses).item<float>();
        Assert.Equal(loss, LossPredictor.Loss(predicted, losses.square() * 3 + 1).item<float>());
        Assert.True(loss > LossPredictor.Loss(losses, losses).item<float>());
        Assert.Equal(0, LossPredictor.Loss(predicted, torch.ones(2, 4)).item<float>());
        Assert.Equal(0, LossPredictor.Loss(predicted.narrow(1, 0, 1), losses.narrow(1, 0, 1)).item<float>());
        var far = (predicted * -1e6f).requires_grad_();
        var large = LossPredictor.Loss(far, losses);
        large.backward();
        Assert.True(float.IsFinite(large.item<float>()) && far.grad!.isfinite().all().item<bool>());
    }

    [Fact]
    public void The_absolute_loss_is_that_of_losses_normalised_in_each_image()
    {
        using var scope = torch.NewDisposeScope();
        var sum = 0.0;
        for (var image = 0; image < 2; image++)
        {
            var row = Enumerable.Range(0, 4).Select(i => (double)Losses[image, i]).ToArray();
            var variance = row.Average(value => (value - row.Average()) * (value - row.Average()));
            for (var i = 0; i < 4; i++)
                sum += Math.Pow(Predicted[image, i] - (row[i] - row.Average()) / Math.Sqrt(variance + 1e-6), 2);
        }

        var loss = LossPredictor.Loss(torch.tensor(Predicted), torch.tensor(Losses), LossPrediction.Absolute);
        Assert.Equal(sum / 8, loss.item<float>(), 1e-5);
    }

    [Theory]
    [InlineData(LossPrediction.Relative)]
    [InlineData(LossPrediction.Absolute)]
    public void No_gradient_goes_into_the_losses(LossPrediction kind)
    {
        using var scope = torch.NewDisposeScope();
        var (predicted, losses) = (torch.tensor(Predicted).requires_grad_(), torch.tensor(Losses).requires_grad_());
        LossPredictor.Loss(predicted, losses, kind).backward();
        Assert.Null(losses.grad);
        Assert.True(predicted.grad!.abs().max().item<float>() > 0);
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using var scope = torch.NewDisposeScope();
        var two = torch.zeros(2, 4);
        HardPatchMinerTests.Refused<ArgumentNullException>("predicted", () => LossPredictor.Loss(null!, two));
        HardPatchMinerTests.Refused<ArgumentException>("losses: Float32[2, 3]", () => LossPredictor.Loss(two, torch.zeros(2, 3)));
        HardPatchMinerTests.Refused<ArgumentException>("predicted: Float32[8]", () => LossPredictor.Loss(torch.zeros(8), two));
        HardPatchMinerTests.Refused<ArgumentException>(
            "losses: Int64[2, 4]", () => LossPredictor.Loss(two, torch.zeros(2, 4, torch.int64)));
        HardPatchMinerTests.Refused<ArgumentOutOfRangeException>("kind", () => LossPredictor.Loss(two, two, (LossPrediction)7));
        HardPatchMinerTests.Refused<ArgumentOutOfRangeException>("depth", () => _ = new LossPredictor(8, 0));
        HardPatchMinerTests.Refused<ArgumentException>("3 heads", () => _ = new LossPredictor(8, 1, 3));
        using var predictor = new LossPredictor(8);
        HardPatchMinerTests.Refused<ArgumentException>("input: Float32[2, 4, 7]", () => predictor.forward(torch.zeros(2, 4, 7)));
        HardPatchMinerTests.Refused<ArgumentException>("input: Float32[4, 8]", () => predictor.forward(torch.zeros(4, 8)));
    }
}
