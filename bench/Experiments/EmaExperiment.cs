using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Models;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Does the average of weights trained at a constant rate classify better than the weights, and how near does it come to a cosine?
/// </summary>
internal sealed class EmaExperiment : ModelExperiment
{
    private const long Steps = 1000, QuickSteps = 40;

    public override string Name => "ema";

    public override string Claim => "At a constant learning rate, averaged weights classify better than the weights themselves.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        long steps = settings.Quick ? QuickSteps : Steps;
        List<double> constant = [], averaged = [], cosine = [];
        double done = 0, all = 2.0 * settings.Seeds.Count;
        foreach (int seed in settings.Seeds)
        {
            // Averaging does not touch the training, so one training gives two arms: paired in every step.
            AccuracyPoint flat = Train(LearningRate.Constant, seed, average: true);
            constant.Add(flat.Raw);
            averaged.Add(flat.Averaged);
            cosine.Add(Train(LearningRate.Cosine, seed, average: false).Raw);
        }

        string metric = string.Create(CultureInfo.InvariantCulture, $"accuracy after {steps} steps, % of {data.Test.Count:N0} test images");
        ModelRow control = new("constant rate", IsControl: true, metric, constant);
        ModelRow arm = new("constant rate + EMA", IsControl: false, metric, averaged);
        return new("ema", $"{Claim} ({data.Source}; small vision transformer; {AveragedTraining.ScheduleText})",
            [control, arm, new("cosine, no EMA", IsControl: true, metric, cosine)], ModelDifference.Between(arm, control));

        AccuracyPoint Train(LearningRate rate, int seed, bool average)
        {
            using var training = new ImageTraining(data.Train, rate, steps, seed);
            using EmaModel? ema = average
                ? new(training.Model, AveragedTraining.Schedule) { Backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true) }
                : null;
            var part = new Part(progress, done, all);
            AccuracyPoint end = AveragedTraining.Run(training, ema, data.Test, steps, every: steps, part, cancellation).Curve[^1];
            done++;
            return end;
        }
    }

    private sealed class Part(IProgress<double> whole, double before, double all) : IProgress<double>
    {
        public void Report(double value) => whole.Report((before + value) / all);
    }
}
