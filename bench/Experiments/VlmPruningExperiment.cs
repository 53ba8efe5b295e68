using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Which visual tokens may a decoder drop? One vision-language model a seed, trained without pruning, answers questions about canvases of
/// real images while each policy prunes it, at about the same number of operations.
/// </summary>
internal sealed class VlmPruningExperiment : ModelExperiment
{
    private const long Steps = 800, QuickSteps = 3;
    private const int Canvases = 1000, QuickCanvases = 40, Batch = 250, TimedBatch = 64, Rounds = 7, QuickRounds = 1, Figures = 4;

    // After how many of four layers, and what goes on. Staged policies cut after each layer, to the mean over layers of the first three.
    private static readonly (int Cut, double Ratio)[] Budgets = [(2, 0.5), (2, 0.25), (2, 0.125), (1, 0.25)];

    private static readonly Arm[] Arms = [new("no pruning", null, IsControl: true), .. Budgets.SelectMany(b => ArmsOf(b.Cut, b.Ratio))];

    public override string Name => "vlm-pruning";

    public override string Claim =>
        "A decoder that keeps a quarter of the visual tokens after its second layer answers better when the last token's attention chose "
        + "them (FastV) than when chance did.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        using var train = new FashionCanvas(data.Train);
        using var test = new FashionCanvas(data.Test);
        (long steps, int canvases) = settings.Quick ? (QuickSteps, QuickCanvases) : (Steps, Canvases);
        var journal = new ExperimentJournal(Name, string.Create(
            CultureInfo.InvariantCulture, $"{data.Source}, {canvases} canvases, {steps} steps, {settings.Threads} threads"));
        var all = new List<double[]>();
        for (int i = 0; i < settings.Seeds.Count; i++)
        {
            int seed = settings.Seeds[i];
            all.Add(journal.Part($"seed {seed}", () => Learn(seed, done => progress.Report((i + done) / settings.Seeds.Count))));
        }

        journal.Complete();
        string[] metrics =
        [
            string.Create(CultureInfo.InvariantCulture, $"what is in a cell, % of {canvases:N0} right"),
            string.Create(CultureInfo.InvariantCulture, $"how many items, % of {canvases:N0} right"),
            "million operations of the decoder a prompt",
            string.Create(CultureInfo.InvariantCulture,
                $"{TimedBatch} prompts, ms of {(ThreadClock.IsCpuTime ? "processor time" : "wall time")}, median"),
        ];
        ModelRow[] rows =
        [
            .. metrics.SelectMany((metric, figure) => Arms.Select((arm, i) => new ModelRow(
                arm.Name, arm.IsControl, metric, [.. all.Select(values => values[i * Figures + figure])]))),
        ];
        ModelDifference[] differences = [.. Differences(rows, metrics)];
        string claim = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} ({data.Source}; canvases of 3 x 3 cells, {FashionCanvas.VisualTokens} visual tokens; a decoder of "
            + $"{CanvasReader.Layers} layers, {steps} steps, trained without pruning)");
        return new(Name, claim, rows, differences[0]) { Others = differences[1..] };

        double[] Learn(int seed, Action<double> done)
        {
            using var reader = new CanvasReader(train, steps, seed);
            for (long step = 1; step <= steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                reader.Step();
                done(0.8 * step / steps);
            }

            using var noGrad = torch.no_grad();
            double[] times = Times(reader, settings.Quick ? QuickRounds : Rounds, seed);
            return [.. Arms.SelectMany((arm, i) =>
            {
                cancellation.ThrowIfCancellationRequested();
                done(0.8 + 0.2 * i / Arms.Length);
                (double what, double flops) = Accuracy(reader, arm, CanvasQuestion.What, seed);
                (double count, _) = Accuracy(reader, arm, CanvasQuestion.HowMany, seed);
                return (double[])[what, count, 1e-6 * flops, times[i]];
            })];
        }

        // On canvases that are the same for all arms and seeds.
        (double Percent, double Flops) Accuracy(CanvasReader reader, Arm arm, CanvasQuestion question, int seed)
        {
            using IDisposable? pruning = arm.Prune(reader.Model, seed);
            var random = new Random((int)question);
            (long right, double flops) = (0, 0);
            for (int at = 0; at < canvases; at += Batch)
            {
                using var scope = torch.NewDisposeScope();
                (Tensor patches, Tensor questions, Tensor answers) = test.Draw(Math.Min(Batch, canvases - at), 1, random, question);
                right += reader.Answer(patches, questions).argmax(2).eq(answers).sum().item<long>();
                flops = reader.DecoderFlops();
            }

            return (100.0 * right / canvases, flops);
        }

        // Round by round in shuffled order.
        double[] Times(CanvasReader reader, int rounds, int seed)
        {
            using var scope = torch.NewDisposeScope();
            (Tensor patches, Tensor questions, _) = test.Draw(TimedBatch, 1, new Random(seed));
            List<double>[] times = [.. Arms.Select(_ => new List<double>())];
            int[] order = [.. Enumerable.Range(0, Arms.Length)];
            var random = new Random(seed);
            for (int round = -2; round < rounds; round++)
            {
                random.Shuffle(order);
                foreach (int i in order)
                {
                    cancellation.ThrowIfCancellationRequested();
                    using IDisposable? pruning = Arms[i].Prune(reader.Model, seed);
                    long start = ThreadClock.Nanoseconds();
                    reader.Answer(patches, questions).Dispose();
                    if (round >= 0) times[i].Add(1e-6 * (ThreadClock.Nanoseconds() - start));
                }
            }

            return [.. times.Select(list => Quartiles.Of([.. list]).Median)];
        }
    }

    // The claim first; then each policy against each control, by question and ratio.
    private static IEnumerable<ModelDifference> Differences(ModelRow[] rows, string[] metrics)
    {
        yield return Of("FastV", "random", (2, 0.25), 0) with { Metric = null };
        foreach (int question in (int[])[0, 1])
        {
            foreach ((int cut, double ratio) in Budgets)
            {
                foreach (string policy in cut == 1 ? (string[])["FastV"] : ["FastV", "PyramidDrop", "SparseVLM"])
                {
                    foreach (string control in (string[])["random", "stride", "pooling", "least attended"])
                        yield return Of(policy, control, (cut, ratio), question);
                }
            }
        }

        ModelDifference Of(string arm, string control, (int Cut, double Ratio) budget, int question) =>
            ModelDifference.Between(Row(arm, budget, question), Row(control, budget, question)) with { Metric = metrics[question] };

        ModelRow Row(string arm, (int Cut, double Ratio) budget, int question) =>
            rows.First(row => row.Arm == NameOf(arm, budget.Cut, budget.Ratio) && row.Metric == metrics[question]);
    }

    private static IEnumerable<Arm> ArmsOf(int cut, double ratio)
    {
        const int Visual = FashionCanvas.VisualTokens;
        Budget budget = Budget.Ratio(ratio);
        double stage = StageRatio(ratio);
        int[] counts = [.. Enumerable.Range(1, CanvasReader.Layers - 1).Select(i => (int)Math.Round(Visual * Math.Pow(stage, i)))];
        PoolGrid windows = ratio switch
        {
            0.5 => PoolGrid.Window(FashionCanvas.Side, FashionCanvas.Side, 1, 2),
            0.25 => PoolGrid.Window(FashionCanvas.Side, FashionCanvas.Side, 2, 2),
            _ => PoolGrid.Window(FashionCanvas.Side, FashionCanvas.Side, 2, 4),
        };
        yield return Of("FastV", _ => new FastV(cut, budget), false);
        if (cut == 2)
        {
            // SparseVLM adds one or two clusters of recycled tokens.
            yield return Of("PyramidDrop", _ => new PyramidDrop([.. counts.Select((_, i) => (i + 1, stage))]), false);
            yield return Of("SparseVLM", _ => new SparseVlm([.. counts.Select((count, i) => (i + 1, count - 1))]), false);
        }

        yield return Of("random", seed => new RandomPruning(cut, budget, seed), true);
        yield return Of("stride", _ => new StridePruning(cut, ratio), true);
        yield return Of("pooling", _ => new PooledPruning(cut, windows), true);
        yield return Of("least attended", _ => new LeastAttended(cut, budget), true);

        Arm Of(string name, Func<int, DecoderPruning> policy, bool isControl) => new(NameOf(name, cut, ratio), policy, isControl);
    }

    // r₁ + r₁² + r₁³ of the layers behind the first is what two layers at r and one at 1 are.
    private static double StageRatio(double ratio)
    {
        (double low, double high) = (0, 1);
        for (int i = 0; i < 50; i++)
        {
            double r = (low + high) / 2;
            (low, high) = r + r * r + r * r * r < 1 + 2 * ratio ? (r, high) : (low, r);
        }

        return low;
    }

    private static string NameOf(string policy, int cut, double ratio) => string.Create(
        CultureInfo.InvariantCulture, $"{policy}{(policy is "PyramidDrop" or "SparseVLM" ? "" : $" after {cut}")}, keep {ratio}");

    private sealed record Arm(string Name, Func<int, DecoderPruning>? Policy, bool IsControl)
    {
        public IDisposable? Prune(VisionLanguageModel model, int seed) => Policy is null ? null : model.Prune(Policy(seed));
    }
}
