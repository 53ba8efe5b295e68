using System.Globalization;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Bench.Experiments;

/// <summary>What <see cref="KvpExperiment"/> found, as rows, comparisons, tables and pictures.</summary>
internal static class KvpReport
{
    private static readonly string[] Controls =
        [KvpArms.Auxiliary, KvpArms.Continued, KvpArms.Truncated, KvpArms.Published, KvpArms.NoCacheLoss];

    /// <summary>The report.</summary>
    public static ModelResults Of(string name, string claim, KvpOutcome outcome, ModelSettings settings)
    {
        List<Measure> measures = [.. Measures(outcome.Samples)];
        ModelDifference[] differences = [.. Differences(outcome, measures)];
        List<string> notes = [.. Notes(outcome, measures, settings)];
        return new(name, claim, [.. Rows(outcome, measures)], differences[0])
        {
            Others = differences[1..], Notes = notes, Tables = [.. KvpTables.Of(outcome, measures)],
            Pictures = [.. KvpTables.Pictures(outcome, measures)],
        };
    }

    private static IEnumerable<Measure> Measures(KvpSamples samples)
    {
        for (int span = 0; span < KvpSamples.Spans.Count; span++)
        {
            for (int length = 0; length < samples.Lengths.Count; length++)
            {
                (int s, int l) = (span, length);
                yield return new(
                    $"nats a byte, {KvpSamples.NameOf(s)}", length, samples.Lengths[length], LowerIsBetter: true,
                    figures => figures.Loss[l][s]);
            }
        }

        for (int length = 0; length < samples.Lengths.Count; length++)
        {
            int l = length;
            yield return new(
                string.Create(CultureInfo.InvariantCulture, $"recall, % of {samples.Questions} right"), length, samples.Lengths[length],
                LowerIsBetter: false, figures => 100 * figures.Recall(samples, l));
        }
    }

    private static IEnumerable<ModelRow> Rows(KvpOutcome outcome, List<Measure> measures)
    {
        foreach (Measure measure in measures)
        {
            foreach (KvpArm arm in outcome.Arms.Keys)
                yield return new(arm.Name, arm.IsControl, measure.Name, outcome.Values(arm, measure.Of));
        }

        foreach (Measure measure in measures)
        {
            foreach (KvpArm arm in outcome.Arms.Keys)
            {
                if (outcome.Shares(arm, measure) is { } shares) yield return new(arm.Name, arm.IsControl, measure.ShareName, shares);
            }
        }

        foreach (KvpArm arm in outcome.Arms.Keys)
        {
            for (int l = 0; l < outcome.Samples.Lengths.Count; l++)
            {
                int length = l;
                string prompt = Measure.PromptOf(outcome.Samples.Lengths[l]);
                double bytes = outcome.Values(arm, figures => figures.CacheBytes[length])[0];
                yield return new(arm.Name, arm.IsControl, $"cache bytes of a sequence, {prompt}", [bytes]);
                if (!outcome.Work.TryGetValue(arm.Name, out double[]? work)) continue;
                double saved = outcome.Work[KvpArms.Base][l] / work[l];
                yield return new(arm.Name, arm.IsControl, $"work of the base over own, {prompt}", [saved]);
            }

            if (outcome.Peaks.TryGetValue(arm.Name, out double peak) && peak > 0)
                yield return new(arm.Name, arm.IsControl, $"peak bytes of reading 8 prompts of {outcome.Samples.Lengths[^1]}", [peak]);
            foreach ((_, KvpTime time) in outcome.Times.Where(entry => entry.Arm == arm.Name))
            {
                string where = $"{Measure.PromptOf(time.Prompt)}, batch {time.Batch}";
                yield return new(arm.Name, arm.IsControl, $"ms to the first token, {where}", [time.First]);
                yield return new(arm.Name, arm.IsControl, $"ms to the first token over the base's, {where}", [time.OfBase]);
                yield return new(arm.Name, arm.IsControl, $"ms a token, {where}", [time.Next]);
            }
        }

        foreach (var (type, large) in outcome.Large)
        {
            string metric = $"ms to the first token, large shapes, {Named(type)}";
            yield return new("base", true, metric, [large.Base]);
            yield return new("auxiliary alone", true, metric, large.Auxiliary);
            yield return new("KV prediction", false, metric, large.Prediction);
        }
    }

    // Recall at the length that most of the training had decides; then both ends of what can be seen, against each control.
    private static IEnumerable<ModelDifference> Differences(KvpOutcome outcome, List<Measure> measures)
    {
        int decidingLength = Math.Min(1, outcome.Samples.Lengths.Count - 1);
        Measure recall = measures.Last(measure => !measure.LowerIsBetter && measure.Length == decidingLength);
        string deciding = outcome.Find(KvpArms.Continued) is null ? KvpArms.Auxiliary : KvpArms.Continued;
        yield return Between(KvpArms.Split, deciding, recall) is { } first
            ? first with { Metric = null }
            : Between(KvpArms.Split, KvpArms.Auxiliary, recall)! with { Metric = null };
        foreach (string control in Controls)
        {
            foreach (Measure measure in measures.Where(
                measure => !measure.LowerIsBetter || measure.What.Contains(KvpSamples.NameOf(0), StringComparison.Ordinal)))
            {
                if ((control == deciding && measure == recall) || Between(KvpArms.Split, control, measure) is not { } difference) continue;
                yield return difference;
            }
        }

        ModelDifference? Between(string arm, string control, Measure measure) =>
            outcome.Pairs(arm, control, measure.Of) is not { } pairs
                ? null
                : ModelDifference.Between(new(arm, false, measure.Name, pairs.Arm), new(control, true, measure.Name, pairs.Control)) with
                {
                    Metric = measure.Name,
                    LowerIsBetter = measure.LowerIsBetter,
                };
    }

    private static IEnumerable<string> Notes(KvpOutcome outcome, List<Measure> measures, ModelSettings settings)
    {
        KvpSamples samples = outcome.Samples;
        yield return string.Create(CultureInfo.InvariantCulture,
            $"Text: {outcome.Source}; {samples.Excerpts} places of the book held out, the same bytes behind each length of prompt. "
            + $"Recall is synthetic: {TextBatches.MostPairs} pairs told first, one asked for behind text.");
        yield return string.Create(CultureInfo.InvariantCulture,
            $"Base {1e-6 * KvPredictionCost.Parameters(outcome.Plan.BaseOptions):0.00} million parameters, auxiliary model "
            + $"{1e-6 * KvPredictionCost.Parameters(outcome.Plan.AuxiliaryOptions):0.00} million; bytes as tokens; arms without seed "
            + $"have one value.");
        if (outcome.Missing.Count > 0) yield return $"Not trained yet, and left out: {string.Join(", ", outcome.Missing)}.";
        KvpArm whole = outcome.Find(KvpArms.Base)!;
        string[] without = [.. measures.Where(measure => outcome.Shares(whole, measure) is null).Select(measure => measure.Name)];
        if (without.Length > 0)
            yield return $"The base is no better than the auxiliary model in, so there is no gap to recover: {string.Join("; ", without)}.";
        yield return "Compressed caches are not timed in the largest batch.";
        foreach (var (type, large) in outcome.Large)
        {
            string shapes = settings.Quick ? "The same at tiny sizes" : "OpenELM 1.1B from 450M, random weights, 1,024 tokens";
            yield return string.Create(CultureInfo.InvariantCulture,
                $"{shapes}, {Named(type)}: first token after {large.Base:0.0} ms by the base, "
                + $"{Quartiles.Of([.. large.Auxiliary]).Median:0.0} ms by the auxiliary model, KV Prediction {large.Ratio.Median:0.000} "
                + $"[{large.Ratio.Q1:0.000}, {large.Ratio.Q3:0.000}] times that (aim: 1.10 in bfloat16; paper: 1.13 to 1.40).");
        }

        yield return $"Questions and answers in kvpress's schema: {WriteRows(outcome, settings)}.";
    }

    private static string Named(torch.ScalarType type) => type == torch.ScalarType.BFloat16 ? "bfloat16" : "float32";

    private static string WriteRows(KvpOutcome outcome, ModelSettings settings)
    {
        string root = Path.Combine("artifacts", "bench", settings.Quick ? "kvp-quick" : "kvp", "kvpress");
        if (Directory.Exists(root)) Directory.Delete(root, recursive: true);
        double[] whole = outcome.Arms[outcome.Find(KvpArms.Base)!][0].CacheBytes;
        foreach ((KvpArm arm, KvpFigures[] variants) in outcome.Arms)
        {
            foreach ((KvpVariant variant, KvpFigures figures) in arm.Variants.Zip(variants))
            {
                string press = variant.Seed is { } seed ? $"{arm.Name} {seed}" : arm.Name;
                double ratio = Math.Max(0, 1 - figures.CacheBytes.Sum() / whole.Sum());
                KvPressRows.Write(root, "recall", "austen", "auxcore-kvp", press, ratio, [.. outcome.Samples.PressRows(figures)]);
            }
        }

        return root;
    }
}
