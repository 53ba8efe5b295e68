using AuxCore.Bench.Data;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests.Bench;

[RequiresLibtorch]
public class PruningEvaluationTests
{
    [Fact]
    public void Every_arm_labels_as_the_model_does_with_its_policy()
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        torch.manual_seed(1);
        using var model = new VisionTransformer(PruningTraining.OptionsFor(28));
        var random = new Random(1);
        var pixels = new byte[40 * 28 * 28];
        random.NextBytes(pixels);
        using var images = new ByteImages(new LabelledImages("noise", 28, 28, pixels, new byte[40], FashionMnist.ClassNames));
        PruningArm[] arms = [.. PruningArms.Of(0.25, (3, 4), seed: 1), .. PruningArms.Dynamic];

        var (unpruned, pruned) = PruningEvaluation.Run(model, images, arms, _ => { }, TestContext.Current.CancellationToken);

        Assert.Equal((Right(), 40L * 49), (unpruned.Right, unpruned.Kept));
        for (var place = 0; place < pruned.Length; place++)
        {
            for (var arm = 0; arm < arms.Length; arm++)
            {
                var reductions = new List<TokenReduction>();
                model.Pruning = [(PruningEvaluation.Blocks[place], arms[arm].Create())];
                Assert.Equal(Right(reductions), pruned[place][arm].Right);
                Assert.Equal(reductions[0].Counts.Sum(count => count - 1), pruned[place][arm].Kept);
                if (arm < arms.Length - PruningArms.Dynamic.Count)
                    Assert.All(reductions[0].Counts, count => Assert.Equal(13, count)); // 12 of 49, and the class token
                reductions[0].Dispose();
            }
        }

        long Right(List<TokenReduction>? reductions = null)
        {
            var (batch, labels) = images.Range(0, 40);
            return model.forward(batch, reductions ?? []).argmax(1).eq(labels).sum().item<long>();
        }
    }

    [Fact]
    public void Operations_are_those_of_the_products()
    {
        var options = PruningTraining.OptionsFor(28);
        const double Embedding = 49 * 16 * 64, Attention = 4 * 50 * 64 * 64 + 2 * 50 * 50 * 64, Perceptron = 4 * 50 * 64 * 64;
        Assert.Equal(
            2e-6 * (Embedding + 4 * (Attention + Perceptron) + 640), PruningEvaluation.MegaFlops(options, 2, kept: 49), 1e-9);

        // In block 2, attention sees all; the perceptron and the last block only what is left.
        const double Left = 4 * 10 * 64 * 64 + 2 * 10 * 10 * 64;
        Assert.Equal(
            2e-6 * (Embedding + 3 * Attention + 2 * Perceptron + 2 * 4 * 10 * 64 * 64 + Left + 640),
            PruningEvaluation.MegaFlops(options, 2, kept: 9), 1e-9);
    }
}
