using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Hard Patches Mining: a masked autoencoder learns from cluttered canvases without labels. Does hiding what it will find hard give better
/// features than hiding at random?
/// </summary>
internal sealed class HpmExperiment : ModelExperiment
{
    private const long Steps = 600, QuickSteps = 6;
    private const int TrainImages = 20_000, ProbeImages = 10_000, QuickImages = 500, TestSeed = 1_000;
    private const double Ridge = 1;

    private const string Reconstruction = "squared error of hidden pixels, random masks";

    public override string Name => "hpm";

    public override string Claim =>
        "Features of an autoencoder whose masks hide predicted hard patches are read better by a linear probe than those of one whose "
        + "masks are random.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        using var train = Canvases(data.Train, settings.Quick ? QuickImages : TrainImages, seed: 0);
        using var test = Canvases(data.Test, settings.Quick ? QuickImages : data.Test.Count, TestSeed);
        using var labelled = new RawImages(
            train.Bytes.narrow(0, 0, Math.Min(ProbeImages, train.Count)), train.Labels.narrow(0, 0, Math.Min(ProbeImages, train.Count)));
        long steps = settings.Quick ? QuickSteps : Steps;
        AuxBackend backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        IReadOnlyList<MaskingArm> arms = MaskingArm.All;
        var journal = new ExperimentJournal(Name, string.Create(CultureInfo.InvariantCulture,
            $"{data.Source}, {train.Count} + {test.Count} canvases, {steps} steps, {settings.Backend}, {settings.Threads} threads"));

        double done = 0, all = arms.Count * settings.Seeds.Count * steps;
        var results = arms.ToDictionary(arm => arm.Name, _ => new List<double[]>());
        foreach (int seed in settings.Seeds)
        {
            foreach (MaskingArm arm in arms)
            {
                double before = done;
                results[arm.Name].Add(journal.Part($"{arm.Name}, seed {seed}", () => Pretrain(arm, seed)));
                progress.Report((done = before + steps) / all);
            }
        }

        journal.Complete();
        string metric = string.Create(
            CultureInfo.InvariantCulture, $"linear probe, accuracy, % of {test.Count:N0} test canvases");
        ModelRow[] accuracy = Rows(arms, metric, 0), errors = Rows(arms, Reconstruction, 1);
        ModelRow[] ranks = Rows(arms.Where(arm => arm.Predicts), "rank correlation of predicted and real errors of an image", 2);
        string what = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} ({data.Source}; {train.Count:N0} canvases of 56 × 56 with an item and six crops of others; {steps} steps of "
            + $"{MaskedPretraining.BatchSize}, 64 patches of which 48 are hidden; the probe is least squares over {labelled.Count:N0} "
            + $"labels)");
        return new(Name, what, [.. accuracy, .. errors, .. ranks], ModelDifference.Between(accuracy[0], accuracy[2]))
        {
            Others =
            [
                ModelDifference.Between(accuracy[0], accuracy[1]), ModelDifference.Between(accuracy[1], accuracy[2]),
                .. new[] { (0, 2), (0, 1) }.Select(pair => ModelDifference.Between(errors[pair.Item1], errors[pair.Item2]) with
                {
                    Metric = Reconstruction, LowerIsBetter = true,
                }),
            ],
        };

        ModelRow[] Rows(IEnumerable<MaskingArm> of, string name, int part) =>
            [.. of.Select(arm => new ModelRow(arm.Name, arm.IsControl, name, [.. results[arm.Name].Select(values => values[part])]))];

        // Accuracy, reconstruction, rank correlation.
        double[] Pretrain(MaskingArm arm, int seed)
        {
            using var training = new MaskedPretraining(train, arm, steps, seed, backend);
            for (long step = 0; step < steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                training.Step();
                progress.Report(++done / all);
            }

            (double error, double correlation) = Errors(training.Model, test);
            return [Probe(training, labelled, test), error, correlation];
        }
    }

    private static RawImages Canvases(LabelledImages items, int count, int seed) =>
        RawImages.Of(ClutteredCanvas.Of(items.First(count), seed));

    private static double Probe(MaskedPretraining training, RawImages labelled, RawImages test)
    {
        using var scope = torch.NewDisposeScope();
        Tensor classes = torch.nn.functional.one_hot(labelled.Labels).to(torch.float64);
        using LinearReadout probe = LinearReadout.Fit(training.Features(labelled), classes, Ridge);
        Tensor right = probe.Predict(training.Features(test)).argmax(1).eq(test.Labels);
        return 100.0 * right.sum().item<long>() / test.Count;
    }

    // Over random masks that are the same for all arms. The correlation is Spearman's, over the hidden patches of an image, and averaged.
    private static (double Error, double Correlation) Errors(MaskedAutoencoder model, RawImages images)
    {
        using IDisposable noGrad = torch.no_grad();
        using var miner = new HardPatchMiner(seed: TestSeed);
        double error = 0, correlation = 0;
        for (long at = 0; at < images.Count; at += 500)
        {
            using var scope = torch.NewDisposeScope();
            long count = Math.Min(500, images.Count - at);
            using PatchMask mask = miner.Random(count, model.Settings.Patches);
            (Tensor losses, Tensor? predicted) = model.PatchLosses(images.At(at, count), mask);
            error += losses.mean([1]).sum().item<float>();
            if (predicted is not null) correlation += Correlation(Ranks(losses), Ranks(predicted)).sum().item<float>();
        }

        return (error / images.Count, correlation / images.Count);
    }

    private static Tensor Ranks(Tensor values) => values.argsort(1).argsort(1).to(torch.float32);

    private static Tensor Correlation(Tensor left, Tensor right)
    {
        Tensor x = left - left.mean([1], keepdim: true), y = right - right.mean([1], keepdim: true);
        return (x * y).mean([1]) / (x.square().mean([1]) * y.square().mean([1])).sqrt();
    }
}
