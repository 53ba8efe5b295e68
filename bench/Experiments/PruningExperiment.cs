using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Which tokens does a vision transformer need? One is trained without pruning, on cluttered canvases and on plain images; then every
/// policy prunes it in its second or third block. Nothing is trained again.
/// </summary>
internal sealed class PruningExperiment : ModelExperiment
{
    private const long Steps = 2000, QuickSteps = 8;
    private const int TestSeed = 1_000_003, TimedImages = 64, TimedRounds = 15, QuickTimedRounds = 1;

    private static readonly string[] Data = ["canvas", "plain"];

    public override string Name => "pruning";

    public override string Claim =>
        "On cluttered canvases, patches that the class token attends to label more images right than as many random ones.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        long steps = settings.Quick ? QuickSteps : Steps;
        int count = settings.Quick ? 500 : data.Test.Count;
        var journal = new ExperimentJournal(Name, string.Create(CultureInfo.InvariantCulture,
            $"{data.Source}, {count} test images, {steps} steps, {settings.Backend}, {settings.Threads} threads"));
        IReadOnlyList<PruningArm> arms = [.. ArmsOf(1).Select(entry => entry.Arm)];
        int parts = Data.Length * settings.Seeds.Count, done = 0;
        var outcomes = new Dictionary<string, List<double[]>>();
        foreach (string name in Data)
        {
            outcomes[name] = [];
            foreach (int seed in settings.Seeds)
            {
                double begun = done++;
                outcomes[name].Add(journal.Part(
                    $"{name}, seed {seed}", () => Part(name, seed, share => progress.Report((begun + share) / parts))));
            }
        }

        journal.Complete();
        return ResultsOf(data.Source, count, steps, arms, outcomes);

        double[] Part(string name, int seed, Action<double> report)
        {
            const double Training = 0.75; // of the time of a part
            LabelledImages train = name == Data[0] ? ClutteredCanvas.Of(data.Train, seed) : data.Train;
            LabelledImages test = name == Data[0] ? ClutteredCanvas.Of(data.Test, TestSeed) : data.Test;
            using var learned = new ByteImages(train);
            using var tested = new ByteImages(test.First(count), like: learned);
            using var training = new PruningTraining(learned, train.Rows, steps, seed);
            for (long step = 0; step < steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                training.Step();
                report(Training * (step + 1) / steps);
            }

            training.Model.eval();
            IReadOnlyList<PruningArm> own = [.. ArmsOf(seed).Select(entry => entry.Arm)];
            var (unpruned, pruned) = PruningEvaluation.Run(
                training.Model, tested, own, share => report(Training + (1 - Training) * share), cancellation);
            double[] times = Times(training.Model, tested, own, seed);
            return [Percent(unpruned), .. pruned.SelectMany(block => block).SelectMany(Figures), .. times];

            double Percent(PruningOutcome outcome) => 100.0 * outcome.Right / count;

            double[] Figures(PruningOutcome outcome) => [Percent(outcome), (double)outcome.Kept / count];
        }

        // Milliseconds an image: without pruning, then, for each block, one an arm.
        double[] Times(VisionTransformer model, ByteImages images, IReadOnlyList<PruningArm> own, int seed)
        {
            using IDisposable noGrad = no_grad();
            using var scope = NewDisposeScope();
            (Tensor batch, _) = images.Range(0, Math.Min(TimedImages, images.Count));
            IReadOnlyList<(int, TokenPolicy)>[] plans =
                [[], .. PruningEvaluation.Blocks.SelectMany(block => own.Select(arm => ((int, TokenPolicy)[])[(block, arm.Create())]))];
            List<double>[] times = [.. plans.Select(_ => new List<double>())];
            int[] order = [.. Enumerable.Range(0, plans.Length)];
            var random = new Random(seed);
            int rounds = settings.Quick ? QuickTimedRounds : TimedRounds;
            for (int round = -1; round < rounds; round++)
            {
                cancellation.ThrowIfCancellationRequested();
                random.Shuffle(order);
                foreach (int i in order)
                {
                    model.Pruning = plans[i];
                    long start = ThreadClock.Nanoseconds();
                    model.forward(batch).Dispose();
                    if (round >= 0) times[i].Add(1e-6 * (ThreadClock.Nanoseconds() - start) / batch.shape[0]);
                }
            }

            model.Pruning = [];
            return [.. times.Select(list => Quartiles.Of([.. list]).Median)];
        }
    }

    // Arms with what they keep in common, in the order of the figures.
    private static IEnumerable<(string Keep, PruningArm Arm)> ArmsOf(int seed) =>
    [
        .. PruningArms.Keeps.SelectMany(keep => PruningArms.Of(keep.Ratio, keep.Cells, seed).Select(arm => (
            string.Create(CultureInfo.InvariantCulture, $"keep {keep.Ratio}"), arm))),
        .. PruningArms.Dynamic.Select(arm => ("keep varies", arm)),
    ];

    private ModelResults ResultsOf(
        string source, int count, long steps, IReadOnlyList<PruningArm> arms, Dictionary<string, List<double[]>> outcomes)
    {
        string[] keeps = [.. ArmsOf(1).Select(entry => entry.Keep)];
        var options = PruningTraining.OptionsFor(ClutteredCanvas.Side);
        List<ModelRow> accuracy = [], kept = [], flops = [], times = [];
        int cases = arms.Count * PruningEvaluation.Blocks.Count;
        foreach (string name in Data)
        {
            accuracy.Add(new("all tokens", true, $"{name}, no pruning", [.. outcomes[name].Select(figures => figures[0])]));
            times.Add(new("all tokens", true, $"{name}, ms", [.. outcomes[name].Select(figures => figures[1 + 2 * cases])]));
            for (int place = 0; place < PruningEvaluation.Blocks.Count; place++)
            {
                int block = PruningEvaluation.Blocks[place];
                for (int arm = 0; arm < arms.Count; arm++)
                {
                    int at = place * arms.Count + arm;
                    string where = $"{name}, block {block + 1}, {keeps[arm]}";
                    double[] left = [.. outcomes[name].Select(figures => figures[2 + 2 * at])];
                    accuracy.Add(Row(where, [.. outcomes[name].Select(figures => figures[1 + 2 * at])]));
                    kept.Add(Row($"{where}, tokens", left));
                    flops.Add(Row($"{where}, MFLOP", [.. left.Select(tokens => PruningEvaluation.MegaFlops(options, block, tokens))]));
                    times.Add(Row($"{where}, ms", [.. outcomes[name].Select(figures => figures[2 + 2 * cases + at])]));

                    ModelRow Row(string metric, double[] values) => new(arms[arm].Name, arms[arm].IsControl, metric, values);
                }
            }
        }

        string what = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} (accuracy, % of {count:N0} test images; {source}; {steps:N0} steps of {PruningTraining.BatchSize}; a vision "
            + $"transformer of width {options.Width}, {options.Depth} blocks, 49 patches; ms of processor time an image, in batches of "
            + $"{TimedImages}; FLOPs without those of the policy itself)");
        return new(Name, what, [.. accuracy, .. kept, .. flops, .. times], Between(0.25, "canvas", 3, PruningArms.Random))
        {
            Others =
            [
                Named(0.5, "canvas", 3, PruningArms.Random), Named(0.5, "canvas", 2, PruningArms.Random),
                Named(0.25, "canvas", 2, PruningArms.Random), Named(0.25, "canvas", 3, PruningArms.Stride),
                Named(0.5, "plain", 3, PruningArms.Stride), Named(0.25, "plain", 3, PruningArms.Stride),
                Named(0.5, "plain", 2, PruningArms.Stride), Named(0.25, "plain", 2, PruningArms.Stride),
            ],
        };

        ModelDifference Named(double ratio, string name, int block, string control) =>
            Between(ratio, name, block, control) with { Metric = Metric(ratio, name, block) };

        ModelDifference Between(double ratio, string name, int block, string control) => ModelDifference.Between(
            Find(PruningArms.Cls, Metric(ratio, name, block)), Find(control, Metric(ratio, name, block)));

        ModelRow Find(string arm, string metric) => accuracy.Single(row => row.Arm == arm && row.Metric == metric);

        static string Metric(double ratio, string name, int block) =>
            string.Create(CultureInfo.InvariantCulture, $"{name}, block {block}, keep {ratio}");
    }
}
