using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Take-along visual conditioning on generated grids: does a model that counts step by step forget the image, and does showing it again,
/// in training (DVR), at inference (PVC) or in both, help? It shows the mechanism, not the paper's scores.
/// </summary>
internal sealed class TvcExperiment : ModelExperiment
{
    private const long Steps = 3000, QuickSteps = 3;
    private const int Grids = 400, QuickGrids = 40, Batch = 200, Steps8 = ShapeGrid.Steps, Captions = ShapeGrid.Cells, PerArm = 3;
    private const string All = "all eight counts, % right", Last = "the last count, % right", Peak = "KV rows of a layer, at most";

    // Plain models do not know the bridge. At half of the answer, in front of the count that was given last.
    private static readonly Arm[] Arms =
    [
        new("plain", Again: false, null),
        .. Pooled("PVC", again: false, bridge: []),
        new("DVR", Again: true, Middle(VisualPooling.None, [ShapeGrid.Bridge]) with { Evict = false }),
        .. Pooled("DVR and PVC", again: true, bridge: [ShapeGrid.Bridge]),
    ];

    private static readonly Arm Plain = Arms[0], Both = Arms[^1];

    public override string Name => "tvc";

    public override string Claim =>
        "A model that learnt with the image shown again, and at half of its answer gets it again, pooled 4 x 4 in place of the old one, "
        + "gives the last count right more often than one that sees it once.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        (long steps, int grids) = settings.Quick ? (QuickSteps, QuickGrids) : (Steps, Grids);
        var journal = new ExperimentJournal(Name, string.Create(
            CultureInfo.InvariantCulture, $"{grids} grids, {steps} steps, {settings.Threads} threads"));
        bool[] kinds = [false, true];
        var figures = kinds.ToDictionary(again => again, _ => new List<double[]>());
        double parts = settings.Seeds.Count * kinds.Length, done = 0;
        foreach (int seed in settings.Seeds)
        {
            foreach (bool again in kinds)
            {
                figures[again].Add(journal.Part($"{(again ? "again" : "once")}, seed {seed}", () => Learn(again, seed)));
                progress.Report(++done / parts);
            }
        }

        journal.Complete();
        ModelRow[] rows = [.. ((string[])[All, Last, Peak]).SelectMany((metric, figure) => Arms.Select(arm => new ModelRow(
            arm.Name, arm == Plain, metric, Values(arm.Again, IndexOf(arm) * PerArm + figure))))];
        ModelRow[] forgetting = [.. kinds.SelectMany(again => Enumerable.Range(0, Steps8).Select(k => new ModelRow(
            again ? Both.Name : Plain.Name, !again, Forgetting(k), Lost(again, k))))];
        ModelDifference[] differences =
        [
            Of(Both.Name, Plain.Name, Last) with { Metric = null },
            .. Arms[1..^1].Select(arm => Of(arm.Name, Plain.Name, Last)), Of(Both.Name, "DVR", Last),
            .. Enumerable.Range(0, Steps8).Select(k => ModelDifference.Between(forgetting[Steps8 + k], forgetting[k]) with
            {
                Metric = Forgetting(k), LowerIsBetter = true,
            }),
        ];
        string claim = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} ({grids} generated grids of 4 x 4 shapes, {ShapeGrid.VisualTokens} visual tokens, captions a quarter wrong; "
            + $"a decoder of {ShapeReader.Layers} layers, {steps} steps of {ShapeReader.BatchSize})");
        return new(Name, claim, [.. rows, .. forgetting], differences[0]) { Others = differences[1..] };

        ModelDifference Of(string arm, string control, string metric) => ModelDifference.Between(
            rows.First(row => row.Arm == arm && row.Metric == metric), rows.First(row => row.Arm == control && row.Metric == metric))
            with
        { Metric = metric };

        double[] Values(bool again, int figure) => [.. figures[again].Select(values => values[figure])];

        // Points of the last count that are lost where the image goes after k steps.
        double[] Lost(bool again, int k)
        {
            int arms = Arms.Count(arm => arm.Again == again);
            int whole = IndexOf(again ? Both : Plain) * PerArm + 1;
            return [.. figures[again].Select(values => values[whole] - values[arms * PerArm + k])];
        }

        // For each arm of this model its three figures; then for each k the last count without the image from there on.
        double[] Learn(bool again, int seed)
        {
            using var reader = new ShapeReader(again, steps, seed);
            for (long step = 1; step <= steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                reader.Step();
                progress.Report((done + 0.8 * step / steps) / parts);
            }

            using var noGrad = torch.no_grad();
            Arm shown = again ? Both : Plain;
            return
            [
                .. Arms.Where(arm => arm.Again == again).SelectMany(arm => Measure(reader, arm.Options, null, grids)),
                .. Enumerable.Range(0, Steps8).Select(k => Measure(reader, shown.Options, k, grids)[1]),
            ];
        }
    }

    private static string Forgetting(int k) => $"points of the last count lost without the image after {k} of {Steps8} steps";

    // Among the arms of the same model.
    private static int IndexOf(Arm arm) => Arms.Where(other => other.Again == arm.Again).ToList().IndexOf(arm);

    private static ReinjectionOptions Middle(VisualPooling pooling, long[] bridge) =>
        new() { At = [ShapeReader.Middle], Pooling = pooling, Bridge = bridge };

    private static IEnumerable<Arm> Pooled(string name, bool again, long[] bridge) =>
        ((VisualPooling[])[VisualPooling.None, VisualPooling.PoolWindow(2, 2), VisualPooling.PoolWindow(4, 4)])
            .Select(pooling => new Arm($"{name}, {pooling.Name}", again, Middle(pooling, bridge)));

    // On grids that are the same for all arms and seeds: all counts and the last in %, and rows at most.
    private static double[] Measure(ShapeReader reader, ReinjectionOptions? options, int? imageGoes, int grids)
    {
        var random = new Random(0);
        (double all, double last, int peak) = (0, 0, 0);
        for (int at = 0; at < grids; at += Batch)
        {
            using var scope = torch.NewDisposeScope();
            using ShapeGridBatch batch = ShapeGrid.Draw(Math.Min(Batch, grids - at), random);
            (Tensor counts, int rows) = Count(reader.Model, batch, options, imageGoes);
            Tensor right = counts.eq(batch.Answers);
            all += right.sum().item<long>() / (double)Steps8;
            last += right.select(1, Steps8 - 1).sum().item<long>();
            peak = Math.Max(peak, rows);
        }

        return [100 * all / grids, 100 * last / grids, peak];
    }

    // Image and caption are read at once, then the question and each count are decoded.
    private static (Tensor Counts, int Peak) Count(
        VisionLanguageModel model, ShapeGridBatch batch, ReinjectionOptions? options, int? imageGoes)
    {
        const int Prompt = ShapeGrid.VisualTokens + Captions;
        CausalDecoder decoder = model.Decoder;
        int count = (int)batch.Patches.shape[0];
        Tensor visual = model.Visual(batch.Patches);
        using KvCache cache = decoder.CreateCache(Prompt + Steps8 + ShapeGrid.VisualTokens + 1, batch: count);
        decoder.PrefillEmbeddings(torch.cat([visual, decoder.Embed(batch.Prompt.narrow(1, 0, Captions))], 1), cache);
        var reinjection = new VisualReinjection(decoder, options ?? new() { Limit = 0 });
        reinjection.Begin(cache, SequenceLayout.Uniform(count, Prompt, 0..ShapeGrid.VisualTokens));
        (Tensor next, int peak) = (batch.Prompt.select(1, Captions), 0);
        var counts = new Tensor[Steps8];
        for (int step = 0; step < Steps8; step++)
        {
            if (step == imageGoes) reinjection.EvictVisual(cache);
            next = counts[step] = decoder.Decode(next, cache).narrow(1, 0, ShapeGrid.Cells + 1).argmax(1);
            peak = Math.Max(peak, cache.Length(0, 0));
            if (step == Steps8 - 1 || !reinjection.Observe(next)) continue;
            reinjection.Reinject(cache, visual, ShapeGrid.Side, ShapeGrid.Side);
            peak = Math.Max(peak, cache.Length(0, 0));
        }

        return (torch.stack(counts, 1), peak);
    }

    private sealed record Arm(string Name, bool Again, ReinjectionOptions? Options);
}
