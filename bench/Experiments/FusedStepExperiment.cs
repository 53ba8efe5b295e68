using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// How much shorter is a training step when AdamW and an average of the weights go in one pass? Three arms train the same model on the same
/// images, step by step in turn, so that they meet the same machine; each seed's value is the median over the steps.
/// </summary>
internal sealed class FusedStepExperiment : ModelExperiment
{
    private const int Steps = 200, QuickSteps = 20, WarmUp = 10;
    private const double Decay = 0.999;

    public override string Name => "fused-step";

    public override string Claim =>
        "With AdamW and the average in one pass, a training step is shorter than with TorchSharp's AdamW and lerp_.";

    public override bool HigherIsBetter => false;

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        int steps = settings.Quick ? QuickSteps : Steps;
        AuxRuntime.CpuThreads = settings.Threads;
        string[] names = ["TorchSharp's AdamW, lerp_", "TorchSharp's AdamW, EmaModel", "AuxCore's AdamW with the average in its pass"];
        List<double>[] whole = [[], [], []], optimizer = [[], [], []], losses = [[], [], []];
        foreach ((int done, int seed) in settings.Seeds.Index())
        {
            Arm[] arms = [Arm.WithLerp(data.Train, seed), Arm.WithEmaModel(data.Train, seed, settings),
                Arm.Fused(data.Train, seed, settings)];
            var random = new Random(seed);
            int[] order = [0, 1, 2];
            for (int step = -WarmUp; step < steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                random.Shuffle(order);
                foreach (int arm in order) arms[arm].Step(keep: step >= 0);
                progress.Report((done + (step + WarmUp) / (double)(steps + WarmUp)) / settings.Seeds.Count);
            }

            for (int arm = 0; arm < arms.Length; arm++)
            {
                whole[arm].Add(arms[arm].MedianMs);
                optimizer[arm].Add(arms[arm].MedianOptimizerMs);
                losses[arm].Add(arms[arm].LastLoss);
                arms[arm].Dispose();
            }
        }

        string clock = ThreadClock.IsCpuTime ? "processor time" : "wall time";
        ModelRow[] Rows(string metric, List<double>[] values) =>
            [.. names.Select((name, arm) => new ModelRow(name, arm == 0, metric, values[arm]))];
        ModelRow[] stepRows = Rows($"a training step, ms of {clock}, median of {steps}", whole);
        return new(Name, $"{Claim} ({data.Source}; small vision transformer, batch of 64)",
            [
                .. stepRows,
                .. Rows($"of it zeroing, stepping and averaging, ms of {clock}, median", optimizer),
                .. Rows(string.Create(CultureInfo.InvariantCulture, $"loss of step {steps + WarmUp}"), losses),
            ],
            ModelDifference.Between(stepRows[2], stepRows[0]));
    }

    /// <summary>One training with its average.</summary>
    private sealed class Arm(ImageTraining training, Action average, params IDisposable[] owned) : IDisposable
    {
        private readonly List<double> _ms = [], _optimizerMs = [];

        public double MedianMs => Quartiles.Of([.. _ms]).Median;

        public double MedianOptimizerMs => Quartiles.Of([.. _optimizerMs]).Median;

        public double LastLoss { get; private set; }

        public static Arm WithLerp(LabelledImages images, int seed)
        {
            var training = new ImageTraining(images, LearningRate.Constant, Steps, seed);
            Tensor weight = torch.tensor((float)(1 - Decay));
            var parameters = training.Model.parameters().ToArray();
            var averages = parameters.Select(parameter => parameter.detach().clone()).ToArray();
            return new(training, Lerp, [weight, .. averages]);

            void Lerp()
            {
                using IDisposable noGrad = torch.no_grad();
                for (int i = 0; i < averages.Length; i++) averages[i].lerp_(parameters[i], weight);
            }
        }

        public static Arm WithEmaModel(LabelledImages images, int seed, ModelSettings settings)
        {
            var training = new ImageTraining(images, LearningRate.Constant, Steps, seed);
            var ema = new EmaModel(training.Model, EmaSchedule.Constant(Decay)) { Backend = BackendOf(settings) };
            return new(training, ema.Update, ema);
        }

        public static Arm Fused(LabelledImages images, int seed, ModelSettings settings)
        {
            EmaModel? ema = null;
            var training = new ImageTraining(images, LearningRate.Constant, Steps, seed, model =>
            {
                ema = new EmaModel(model, EmaSchedule.Constant(Decay));
                return new AdamW(model.parameters(), ImageTraining.Rate, weight_decay: ImageTraining.WeightDecay)
                {
                    Averages = ema, Backend = BackendOf(settings),
                };
            });
            return new(training, () => { }, ema!);
        }

        public void Step(bool keep)
        {
            (long start, long optimizerBefore) = (ThreadClock.Nanoseconds(), training.InOptimizer);
            LastLoss = training.Step();
            long stepped = ThreadClock.Nanoseconds();
            average();
            long end = ThreadClock.Nanoseconds();
            if (!keep) return;
            _ms.Add((end - start) * 1e-6);
            _optimizerMs.Add((training.InOptimizer - optimizerBefore + end - stepped) * 1e-6);
        }

        public void Dispose()
        {
            foreach (IDisposable item in owned) item.Dispose();
            training.Dispose();
        }

        private static AuxBackend BackendOf(ModelSettings settings) => Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
    }
}
