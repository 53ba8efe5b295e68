using System.Globalization;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Data;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using ScottPlot;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Tours;

/// <summary>
/// A small vision transformer that looks for an item on a cluttered canvas: which patches each policy keeps, and what that costs in
/// accuracy and saves in work. Then the kernels.
/// </summary>
internal sealed class TokenTour : TourPath
{
    private const int Images = 1000, QuickImages = 100, Pictures = 6, TimedImages = 64, TimedRounds = 9, QuickTimedRounds = 1;
    private const int Seed = 1, Block = 2; // the third
    private const double ShownKeep = 0.25, ScoreTolerance = 1e-5;

    private static readonly string[] Shown =
        ["select-16384", "compact-hidden-16384x3584", "scores-last-row-32x640", "merge-577x1024", "pipeline-576x4096"];

    private static readonly string[] Drawn = [PruningArms.Cls, "DivPrune", "ToMe", PruningArms.Random, PruningArms.Stride];

    public override string Title => "Token pruning (token-pruning)";

    public override IReadOnlyList<Func<KernelCase>> Cases =>
        [.. CaseCatalogue.All.Where(create => Shown.Any(name => CaseCatalogue.FullName(create) == $"token-pruning/{name}"))];

    public override void Demonstrate(TourContext context)
    {
        FashionMnist data = FashionMnist.LoadBest();
        LabelledImages canvases = ClutteredCanvas.Of(data.Test.First(context.Settings.Quick ? QuickImages : Images), Seed);
        string what = string.Create(CultureInfo.InvariantCulture,
            $"{canvases.Count:N0} canvases of 56 x 56, each with one item and six crops of others ({data.Source}).");
        const string model =
            "A vision transformer, 4 blocks of width 64, 49 patches, trained beforehand without pruning (models pruning).";
        const string pruned = "It is pruned in its third block, between attention and perceptron; nothing is trained again.";
        Console.WriteLine(what);
        Console.WriteLine(model);
        Console.WriteLine(pruned);

        var (rows, picture, disagreement) = Progress.Run("pruning", progress =>
        {
            torch.set_num_threads(context.Settings.Threads);
            AuxRuntime.CpuThreads = context.Settings.Threads;
            using IDisposable noGrad = torch.no_grad();
            var (trained, moments) = CanvasModel.Load();
            using (trained)
            {
                using var images = new ByteImages(canvases, moments);
                double apart = Disagreement(trained, images, Enum.Parse<AuxBackend>(context.Settings.Backend, ignoreCase: true));
                return (Measure(trained, images, context, progress), Picture(trained, images, canvases), apart);
            }
        });

        foreach (Row row in rows.Where(row => row.Keep is null or ShownKeep))
        {
            string line = string.Create(CultureInfo.InvariantCulture,
                $"  {row.Policy,-18} {row.Tokens,5:0.0} patches {row.MegaFlops,5:0.0} MFLOP {Format.Time(1e3 * row.Milliseconds),8} "
                + $"an image, accuracy {row.Accuracy,5:0.0} %");
            Console.WriteLine(line);
        }

        string verified = string.Create(CultureInfo.InvariantCulture,
            $"Scores of these images: {disagreement:0.0e+0} from the reference ({ScoreTolerance:0e+0} allowed); the same patches kept.");
        Console.WriteLine(verified);
        const string question = "With five trainings, plain images and intervals: models pruning.";
        Console.WriteLine(question);

        context.Report.AddSection("Which patches are kept, and what that costs", HtmlReport.Escape($"{what} {model} {pruned}"),
            HtmlReport.Escape("One training: an illustration. " + question), HtmlReport.Escape(verified));
        context.Report.AddChart("Canvases, and what is left of 49 patches; dropped ones are veiled", picture);
        context.Report.AddChart("Accuracy by millions of floating-point operations an image", Chart(rows));
        context.Report.AddTable(
            ["policy", "keep", "patches", "MFLOP", "ms an image", "accuracy, %"],
            rows.Select(row => (IReadOnlyList<string>)
            [
                row.Policy, row.Keep is { } keep ? Format.Number(keep, "0.###") : "varies", Format.Number(row.Tokens, "0.0"),
                Format.Number(row.MegaFlops, "0.0"), Format.Number(row.Milliseconds, "0.000"), Format.Number(row.Accuracy, "0.0"),
            ]));
        if (!(disagreement <= ScoreTolerance)) // also catches NaN
            throw new VerificationException($"{disagreement:E1} from the reference on the scores of a batch", disagreement);
    }

    // The largest difference of scores, over the largest score. Selections of the same scores have to be equal.
    private static double Disagreement(VisionTransformer model, ByteImages images, AuxBackend backend)
    {
        using var scope = torch.NewDisposeScope();
        (Tensor batch, _) = images.Range(0, Math.Min(TimedImages, images.Count));
        VisionTokens tokens = model.Embed(batch);
        PruningLayer layer = model.Block(0).Attend(tokens).Layer;
        Tensor ours = TokenScores.Cls(layer.Queries, layer.Keys, backend: backend);
        Tensor reference = TokenScores.Cls(layer.Queries, layer.Keys, backend: AuxBackend.Reference);
        using TokenPlan kept = TokenPlan.Select(ours, Budget.Ratio(ShownKeep), backend: backend);
        using TokenPlan expected = TokenPlan.Select(ours, Budget.Ratio(ShownKeep), backend: AuxBackend.Reference);
        double differ = kept.Apply(tokens.Hidden).ne(expected.Apply(tokens.Hidden)).sum().item<long>();
        return differ > 0
            ? throw new VerificationException($"{differ} elements of the kept rows differ from the reference's", differ)
            : (ours - reference).abs().max().item<float>() / reference.max().item<float>();
    }

    private static List<Row> Measure(VisionTransformer model, ByteImages images, TourContext context, IProgress<double> progress)
    {
        IReadOnlyList<(double? Keep, PruningArm Arm)> arms =
        [
            .. PruningArms.Keeps.SelectMany(keep => PruningArms.Of(keep.Ratio, keep.Cells, Seed).Select(arm => ((double?)keep.Ratio, arm))),
            .. PruningArms.Dynamic.Select(arm => ((double?)null, arm)),
        ];
        const double Evaluating = 0.6; // of the time
        var (unpruned, outcomes) = PruningEvaluation.Run(
            model, images, [.. arms.Select(entry => entry.Arm)], share => progress.Report(Evaluating * share), context.Cancellation);
        PruningOutcome[] pruned = outcomes[PruningEvaluation.Blocks.TakeWhile(block => block != Block).Count()];
        double[] times = Times(
            model, images, [null, .. arms.Select(entry => entry.Arm)], context,
            share => progress.Report(Evaluating + (1 - Evaluating) * share));
        int tokens = model.Options.Grid * model.Options.Grid;
        return
        [
            new("all tokens", null, false, tokens, FlopsOf(tokens), times[0], Percent(unpruned)),
            .. arms.Select((entry, i) =>
            {
                double kept = (double)pruned[i].Kept / images.Count;
                return new Row(entry.Arm.Name, entry.Keep, entry.Keep is null, kept, FlopsOf(kept), times[i + 1], Percent(pruned[i]));
            }),
        ];

        double FlopsOf(double kept) => PruningEvaluation.MegaFlops(model.Options, Block, kept);

        double Percent(PruningOutcome outcome) => 100.0 * outcome.Right / images.Count;
    }

    // Milliseconds an image, in shuffled rounds; null stands for no pruning.
    private static double[] Times(
        VisionTransformer model, ByteImages images, IReadOnlyList<PruningArm?> arms, TourContext context, Action<double> progress)
    {
        using var scope = torch.NewDisposeScope();
        (Tensor batch, _) = images.Range(0, Math.Min(TimedImages, images.Count));
        IReadOnlyList<(int, TokenPolicy)>[] plans =
            [.. arms.Select(arm => arm is null ? [] : ((int, TokenPolicy)[])[(Block, arm.Create())])];
        List<double>[] times = [.. plans.Select(_ => new List<double>())];
        int[] order = [.. Enumerable.Range(0, plans.Length)];
        var random = new Random(Seed);
        int rounds = context.Settings.Quick ? QuickTimedRounds : TimedRounds;
        Func<long> clock = context.Settings.Threads == 1 ? ThreadClock.Nanoseconds : ThreadClock.WallNanoseconds;
        for (int round = -1; round < rounds; round++)
        {
            random.Shuffle(order);
            foreach (int i in order)
            {
                context.Cancellation.ThrowIfCancellationRequested();
                model.Pruning = plans[i];
                long start = clock();
                model.forward(batch).Dispose();
                if (round >= 0) times[i].Add(1e-6 * (clock() - start) / batch.shape[0]);
            }

            progress((round + 2.0) / (rounds + 1));
        }

        model.Pruning = [];
        return [.. times.Select(list => Quartiles.Of([.. list]).Median)];
    }

    private static string Picture(VisionTransformer model, ByteImages images, LabelledImages canvases)
    {
        using var scope = torch.NewDisposeScope();
        int count = Math.Min(Pictures, canvases.Count);
        (Tensor batch, _) = images.Range(0, count);
        var keep = PruningArms.Keeps.First(entry => entry.Ratio == ShownKeep);
        var rows = new List<(string Name, IReadOnlyList<bool[]>? Kept)> { ("canvas", null) };
        foreach (PruningArm arm in PruningArms.Of(keep.Ratio, keep.Cells, Seed).Where(arm => Drawn.Contains(arm.Name)))
        {
            model.Pruning = [(Block, arm.Create())];
            var reductions = new List<TokenReduction>();
            model.forward(batch, reductions);
            using TokenReduction reduction = reductions[0];
            if (reduction is TokenPlan plan) rows.Add((arm.Name, [.. Enumerable.Range(0, count).Select(i => Kept(plan, i))]));
        }

        model.Pruning = [];
        return PatchSvg.Render(
            $"Canvases with what {rows.Count - 1} policies keep of them",
            [.. Enumerable.Range(0, count).Select(i => canvases.Image(i).ToArray())], rows);

        static bool[] Kept(TokenPlan plan, int image) => [.. plan.Keep()[image].narrow(0, 1, plan.Keep().shape[1] - 1).data<bool>()];
    }

    private static string Chart(List<Row> rows)
    {
        var plot = new Plot();
        var notes = new List<(Coordinates, string)>();
        string[] colours = ["#3b7dd8", "#2f9e6e", "#d0743c", "#8b949e", "#b0b7bf"];
        Row all = rows[0];
        foreach (string policy in Drawn)
        {
            Row[] own = [all, .. rows.Where(row => row.Policy == policy)];
            var line = plot.Add.ScatterLine(
                own.Select(row => row.MegaFlops).ToArray(), own.Select(row => row.Accuracy).ToArray(),
                Color.FromHex(colours[Array.IndexOf(Drawn, policy)]));
            (line.LineWidth, line.MarkerSize) = (2, 5);
            notes.Add((new(own[^1].MegaFlops, own[^1].Accuracy), policy));
        }

        double least = rows.Where(row => Drawn.Contains(row.Policy)).Min(row => row.Accuracy);
        double few = rows.Min(row => row.MegaFlops), span = all.MegaFlops - few;
        plot.Axes.SetLimits(few - .25 * span, all.MegaFlops + .05 * span, least - 2, all.Accuracy + 3);
        plot.XLabel("MFLOP an image");
        plot.YLabel("accuracy, %");
        return PlotSvg.Render(plot, "Accuracy by floating-point operations", 860, 320, PlotSvg.Margins(130, 60), notes);
    }

    /// <summary>What a policy costs and saves.</summary>
    private sealed record Row(
        string Policy, double? Keep, bool IsDynamic, double Tokens, double MegaFlops, double Milliseconds, double Accuracy);
}
