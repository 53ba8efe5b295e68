using ScottPlot;

namespace AuxCore.Bench.Output;

/// <summary>The charts of an experiment: for each metric one line an arm, a dot a seed, and a stroke at the mean.</summary>
internal static class ModelCharts
{
    private const int Width = 860, RowHeight = 30;
    private const float LetterWidth = 8; // as in ResultCharts
    private static readonly Color Arm = Color.FromHex("#3b7dd8"), Control = Color.FromHex("#8b949e");

    /// <summary>Writes results, differences and a chart a metric into one page.</summary>
    public static void Save(string path, ModelResults results, string subtitle)
    {
        var report = new HtmlReport($"models {results.System}", subtitle);
        report.AddSection("Claim", [HtmlReport.Escape(results.Claim), .. (results.Notes ?? []).Select(HtmlReport.Escape)]);
        foreach (IGrouping<string, ModelRow> metric in results.Tables.Count > 0 ? [] : results.Rows.GroupBy(row => row.Metric))
            report.AddChart(metric.Key, Of([.. metric]));
        foreach (IGrouping<string, ModelCurve> metric in (results.Curves ?? []).GroupBy(curve => curve.Metric))
            report.AddChart(metric.Key, CurveChart.Of(metric.Key, [.. metric]));
        foreach ((string title, string svg) in results.Pictures) report.AddChart(title, svg);
        foreach (ModelTable table in results.Tables)
        {
            report.AddSection(table.Title);
            report.AddTable(table.Headers, table.Rows);
        }

        report.AddTable(["arm", "control", "metric", "mean difference", "95 % from", "to"],
            new[] { results.Difference }.Concat(results.Others ?? []).Select(difference => (IReadOnlyList<string>)
            [
                difference.Arm, difference.Control, difference.Metric ?? results.Rows[0].Metric, Format.Digits(difference.Mean),
                difference.Low is { } low ? Format.Digits(low) : Format.Missing,
                difference.High is { } high ? Format.Digits(high) : Format.Missing,
            ]));
        report.Save(path);
    }

    /// <summary>The chart of one metric.</summary>
    public static string Of(IReadOnlyList<ModelRow> rows)
    {
        var plot = new Plot();
        var notes = new List<(Coordinates, string)>();
        for (int i = 0; i < rows.Count; i++)
        {
            Color colour = rows[i].IsControl ? Control : Arm;
            double mean = rows[i].Values.Average();
            foreach (double value in rows[i].Values)
            {
                ScottPlot.Plottables.Marker dot = plot.Add.Marker(value, -i);
                (dot.Color, dot.Size) = (colour, 7);
            }

            ScottPlot.Plottables.LinePlot stroke = plot.Add.Line(mean, -i - .3, mean, -i + .3);
            (stroke.Color, stroke.LineWidth) = (colour, 2.5f);
            notes.Add((new(rows[i].Values.Max(), -i), Format.Digits(mean)));
        }

        plot.Axes.Left.TickGenerator = new ScottPlot.TickGenerators.NumericManual(
            [.. Enumerable.Range(0, rows.Count).Select(i => -(double)i)], [.. rows.Select(row => row.Arm)]);
        plot.Axes.Left.MajorTickStyle.Length = 0;
        double least = rows.Min(row => row.Values.Min()), most = rows.Max(row => row.Values.Max());
        double margin = Math.Max(.05 * (most - least), 1e-9 + .01 * Math.Abs(most));
        plot.Axes.SetLimits(least - margin, most + margin, -rows.Count + .4, .6);
        plot.XLabel(rows[0].Metric);
        float left = LetterWidth * rows.Max(row => row.Arm.Length) + 16;
        return PlotSvg.Render(plot, rows[0].Metric, Width, RowHeight * rows.Count + 54, PlotSvg.Margins(left, 60), notes);
    }
}
