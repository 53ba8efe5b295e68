using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using ScottPlot;

namespace AuxCore.Bench.Experiments;

/// <summary>The tables and pictures of <see cref="KvpReport"/>.</summary>
internal static class KvpTables
{
    private const int Width = 860, Height = 400, RightMargin = 230, PictureBatch = 8;

    private static readonly Color Ours = Color.FromHex("#3b7dd8"), Control = Color.FromHex("#8b949e");

    /// <summary>A table a metric, its columns the lengths of prompts.</summary>
    public static IEnumerable<ModelTable> Of(KvpOutcome outcome, List<Measure> measures)
    {
        string[] headers = ["arm", .. outcome.Samples.Lengths.Select(length => length.ToString("N0", CultureInfo.InvariantCulture))];
        foreach (IGrouping<string, Measure> metric in measures.GroupBy(measure => measure.What))
        {
            yield return new($"{Capital(metric.Key)}, by bytes of prompt: mean [of seeds, least to most]", headers,
                [.. outcome.Arms.Keys.Select(arm => Row(
                    arm.Name, metric.Select(measure => Cell(outcome.Values(arm, measure.Of), measure.LowerIsBetter ? "0.000" : "0.0"))))]);
        }

        foreach (IGrouping<string, Measure> metric in measures.GroupBy(measure => measure.What))
        {
            yield return new($"Share of the gap between auxiliary model and base recovered, %: {metric.Key}", headers,
                [.. outcome.Arms.Keys.Where(arm => arm.Name is not (KvpArms.Base or KvpArms.Auxiliary)).Select(arm => Row(
                    arm.Name, metric.Select(measure =>
                        outcome.Shares(arm, measure) is { } shares ? Cell(shares, "0") : Format.Missing)))]);
        }

        foreach (IGrouping<int, (string Arm, KvpTime Time)> batch in outcome.Times.GroupBy(entry => entry.Time.Batch))
        {
            yield return new($"Milliseconds to the first token, batch {batch.Key}: median (over the base's)", headers,
                [.. batch.GroupBy(entry => entry.Arm).Select(arm => Row(
                    arm.Key, arm.Select(entry => $"{Format.Digits(entry.Time.First)} ({Format.Number(entry.Time.OfBase, "0.00")})")))]);
            yield return new($"Milliseconds of each token behind it, batch {batch.Key}: median", headers,
                [.. batch.GroupBy(entry => entry.Arm).Select(arm => Row(
                    arm.Key, arm.Select(entry => Format.Digits(entry.Time.Next))))]);
        }

        yield return new("Work of the base over own, by operations", headers,
            [.. outcome.Work.Select(arm => Row(
                arm.Key, arm.Value.Select((work, l) => Format.Digits(outcome.Work[KvpArms.Base][l] / work))))]);
        yield return new("Bytes of the cache of a sequence; peak of reading 8 of the longest prompts, MB", [.. headers, "peak"],
            [.. outcome.Arms.Select(arm => Row(
                arm.Key.Name,
                [
                    .. arm.Value[0].CacheBytes.Select(bytes => bytes.ToString("N0", CultureInfo.InvariantCulture)),
                    outcome.Peaks.TryGetValue(arm.Key.Name, out double peak) && peak > 0 ? Format.Digits(1e-6 * peak) : Format.Missing,
                ]))]);
    }

    /// <summary>What is kept by what is saved: by operations, then by time, at the longest prompt.</summary>
    public static IEnumerable<(string Title, string Svg)> Pictures(KvpOutcome outcome, List<Measure> measures)
    {
        int last = outcome.Samples.Lengths.Count - 1;
        foreach (Measure measure in measures.Where(measure => measure.Length == last
            && (!measure.LowerIsBetter || measure.What.Contains(KvpSamples.NameOf(0), StringComparison.Ordinal))))
        {
            string title = $"{Capital(measure.What)}, {Measure.PromptOf(measure.Prompt)}";
            yield return ($"{title}, by work of the base over own work",
                Picture(outcome, measure, "work of the base over own work", name =>
                    outcome.Work.TryGetValue(name, out double[]? work) ? outcome.Work[KvpArms.Base][last] / work[last] : null));
            yield return ($"{title}, by the base's time to the first token over its own, batch {PictureBatch}",
                Picture(outcome, measure, "the base's time to the first token over its own", name =>
                    outcome.Times.FirstOrDefault(entry => entry.Arm == name && entry.Time.Batch == PictureBatch
                        && entry.Time.Prompt == measure.Prompt) is { Time: { } time } ? 1 / time.OfBase : null));
        }
    }

    private static string Picture(KvpOutcome outcome, Measure measure, string axis, Func<string, double?> saving)
    {
        var plot = new Plot();
        var points = new List<(string Name, double X, double Y)>();
        foreach (KvpArm arm in outcome.Arms.Keys)
        {
            if (saving(arm.Name) is not { } x) continue;
            double[] values = outcome.Values(arm, measure.Of);
            foreach (double value in values)
            {
                ScottPlot.Plottables.Marker dot = plot.Add.Marker(x, value);
                (dot.Color, dot.Size) = (arm.IsControl ? Control : Ours, 8);
            }

            points.Add((arm.Name, x, values.Average()));
        }

        if (points.Count == 0) return "";
        double low = points.Min(point => point.Y), high = points.Max(point => point.Y), gap = Math.Max(1e-9, (high - low) * 0.06);
        var (notes, at) = (new List<(Coordinates, string)>(), double.NegativeInfinity);
        // Names that would stand on each other are moved apart.
        foreach ((string name, double x, double y) in points.OrderBy(point => point.Y))
        {
            at = Math.Max(y, at + gap);
            notes.Add((new(x, at), name));
        }

        double least = points.Min(point => point.X), most = points.Max(point => point.X), margin = 0.05 * (most - least) + 1e-9;
        plot.Axes.SetLimits(least - margin, most + margin, low - gap, Math.Max(high, at) + gap);
        plot.XLabel(axis);
        return PlotSvg.Render(plot, $"{measure.Name} by {axis}", Width, Height, PlotSvg.Margins(70, RightMargin), notes);
    }

    private static string Cell(double[] values, string format) => values.Length == 1
        ? Format.Number(values[0], format)
        : $"{Format.Number(values.Average(), format)} [{Format.Number(values.Min(), format)}–{Format.Number(values.Max(), format)}]";

    private static IReadOnlyList<string> Row(string name, IEnumerable<string> cells) => [name, .. cells];

    private static string Capital(string text) => char.ToUpperInvariant(text[0]) + text[1..];
}
