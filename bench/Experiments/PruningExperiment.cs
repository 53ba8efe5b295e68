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
    private const long CanvasSteps = 1200, PlainSteps = 500, QuickSteps = 4;
    private const int TestSeed = 1_000_003, QuickImages = 200, TimedImages = 64, TimedRounds = 7, QuickTimedRounds = 1;

    private const string Varies = "keep varies";
    private const string Canvas = "canvas", Plain = "plain";

    private static readonly string[] Data = [Canvas, Plain];

    public override string Name => "pruning";

    public override string Claim =>
        "On cluttered canvases, patches that the class token attends to label more images right than as many random ones.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        var steps = new Dictionary<string, long>
        {
            [Canvas] = settings.Quick ? QuickSteps : CanvasSteps, [Plain] = settings.Quick ? QuickSteps : PlainSteps,
        };
        int count = settings.Quick ? QuickImages : data.Test.Count;
        var journal = new ExperimentJournal(Name, string.Create(CultureInfo.InvariantCulture,
            $"{data.Source}, {count} test images, {steps[Canvas]} and {steps[Plain]} steps, {settings.Backend}, {settings.Threads} "
            + $"threads"));
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
            const double Training = 0.5; // of the time of a part
            LabelledImages train = name == Canvas ? ClutteredCanvas.Of(data.Train, seed) : data.Train;
            LabelledImages test = name == Canvas ? ClutteredCanvas.Of(data.Test, TestSeed) : data.Test;
            using var learned = new ByteImages(train);
            using var tested = new ByteImages(test.First(count), learned.Moments);
            using var training = new PruningTraining(learned, train.Rows, steps[name], seed);
            for (long step = 0; step < steps[name]; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                training.Step();
                report(Training * (step + 1) / steps[name]);
            }

            training.Model.eval();
            if (name == Canvas && seed == settings.Seeds[0] && !settings.Quick) CanvasModel.Save(training.Model, learned);
            IReadOnlyList<PruningArm> own = [.. ArmsOf(seed).Select(entry => entry.Arm)];
            var (unpruned, pruned) = PruningEvaluation.Run(
                training.Model, tested, own, share => report(Training + (1 - Training) * share), cancellation);
            double[] times = name == Canvas ? Times(training.Model, tested, own, seed) : [];
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
        .. PruningArms.Dynamic.Select(arm => (Varies, arm)),
    ];

    private ModelResults ResultsOf(
        string source, int count, Dictionary<string, long> steps, IReadOnlyList<PruningArm> arms,
        Dictionary<string, List<double[]>> outcomes)
    {
        string[] keeps = [.. ArmsOf(1).Select(entry => entry.Keep)];
        var options = PruningTraining.OptionsFor(ClutteredCanvas.Side);
        List<ModelRow> accuracy = [], kept = [];
        int cases = arms.Count * PruningEvaluation.Blocks.Count, tokens = options.Grid * options.Grid;
        double whole = PruningEvaluation.MegaFlops(options, options.Depth - 1, tokens);
        List<ModelRow> flops = [new("all tokens", true, $"{Canvas}, no pruning, MFLOP", [.. outcomes[Canvas].Select(_ => whole)])];
        List<ModelRow> times =
            [new("all tokens", true, $"{Canvas}, no pruning, ms", [.. outcomes[Canvas].Select(figures => figures[1 + 2 * cases])])];
        foreach (string name in Data)
        {
            accuracy.Add(new("all tokens", true, $"{name}, no pruning", [.. outcomes[name].Select(figures => figures[0])]));
            for (int place = 0; place < PruningEvaluation.Blocks.Count; place++)
            {
                int block = PruningEvaluation.Blocks[place];
                for (int arm = 0; arm < arms.Count; arm++)
                {
                    int at = place * arms.Count + arm;
                    string where = $"{name}, block {block + 1}, {keeps[arm]}";
                    double[] left = [.. outcomes[name].Select(figures => figures[2 + 2 * at])];
                    accuracy.Add(Row(where, [.. outcomes[name].Select(figures => figures[1 + 2 * at])]));
                    if (keeps[arm] == Varies) kept.Add(Row($"{where}, tokens", left));
                    if (name != Canvas) continue;
                    flops.Add(Row($"{where}, MFLOP", [.. left.Select(n => PruningEvaluation.MegaFlops(options, block, n))]));
                    times.Add(Row($"{where}, ms", [.. outcomes[name].Select(figures => figures[2 + 2 * cases + at])]));

                    ModelRow Row(string metric, double[] values) => new(arms[arm].Name, arms[arm].IsControl, metric, values);
                }
            }
        }

        string what = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} (accuracy, % of {count:N0} test images; {source}; {steps[Canvas]:N0} steps of "
            + $"{PruningTraining.BatchSize} on canvases, {steps[Plain]:N0} on plain images; a vision "
            + $"transformer of width {options.Width}, {options.Depth} blocks, 49 patches; ms of processor time an image, in batches of "
            + $"{TimedImages}; FLOPs without those of the policy itself)");
        return new(Name, what, [.. accuracy, .. kept, .. flops, .. times], Between(0.25, Canvas, 3, PruningArms.Random))
        {
            Others =
            [
                Named(0.5, Canvas, 3, PruningArms.Random), Named(0.5, Canvas, 2, PruningArms.Random),
                Named(0.25, Canvas, 2, PruningArms.Random), Named(0.25, Canvas, 3, PruningArms.Stride),
                Named(0.5, Plain, 3, PruningArms.Stride), Named(0.25, Plain, 3, PruningArms.Stride),
                Named(0.5, Plain, 2, PruningArms.Stride), Named(0.25, Plain, 2, PruningArms.Stride),
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
