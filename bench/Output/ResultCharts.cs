using AuxCore.Bench.Cases;
using AuxCore.Bench.Measurement;
using ScottPlot;

namespace AuxCore.Bench.Output;

/// <summary>The charts of kernel results, one horizontal bar a case.</summary>
internal static class ResultCharts
{
    private const int Width = 860, RowHeight = 30, LongestLabel = 40;
    private const float LetterWidth = 8; // the widest of the fonts that HtmlReport asks for, on average
    private static readonly Color Faster = Color.FromHex("#3b7dd8"), Slower = Color.FromHex("#d0743c"), Open = Color.FromHex("#8b949e");

    /// <summary>
    /// The speed-up over the best baseline, with whiskers at the quartiles and a line at 1; grey where the quartiles are on both sides of
    /// it.
    /// </summary>
    public static string Speedups(IEnumerable<CaseResult> results)
    {
        (string, Quartiles)[] rows = [.. results.Where(r => r.Baseline(BaselineKind.Best) is not null)
            .Select(r => (Label(r), r.Baseline(BaselineKind.Best)!.Speedup))];
        return Bars(
            rows, "the best baseline's time over AuxCore's (blue: faster, orange: slower, grey: not resolved)", Format.Ratio,
            markOne: true);
    }

    /// <summary>The bandwidth as a fraction of the triad's or copy's.</summary>
    public static string Bandwidths(IEnumerable<CaseResult> results)
    {
        var measured = results.Where(r => r is { BandwidthFraction: not null, GbPerS: not null }).ToList();
        (string, Quartiles)[] rows =
        [
            .. measured.Select(r => (Label(r), new Quartiles(r.BandwidthFraction!.Value, double.NaN, double.NaN))),
        ];
        int next = 0; // notes are asked for in the order of the rows
        return Bars(rows, "fraction of the bandwidth of a triad or copy in the same rounds",
            fraction => $"{Format.Percent(fraction.Median)} ({Format.Rate(measured[next++].GbPerS)} GB/s)", markOne: false);
    }

    private static string Bars((string Label, Quartiles Value)[] rows, string axis, Func<Quartiles, string> note, bool markOne)
    {
        if (rows.Length == 0) return "";
        var plot = new Plot();
        double widest = rows.Max(row => double.IsNaN(row.Value.Q3) ? row.Value.Median : row.Value.Q3);
        var notes = new List<(Coordinates, string)>();
        for (int i = 0; i < rows.Length; i++)
        {
            Quartiles value = rows[i].Value;
            ScottPlot.Bar bar = new()
            {
                Position = -i, Value = value.Median, Orientation = Orientation.Horizontal, Size = .6, LineWidth = 0,
                FillColor = !markOne || value.Q1 > 1 ? Faster : value.Q3 < 1 ? Slower : Open,
            };
            plot.Add.Bar(bar);
            bool whisker = !double.IsNaN(value.Q1);
            if (whisker) Whisker(plot, -i, value);
            notes.Add((new(whisker ? value.Q3 : value.Median, -i), note(value)));
        }

        ScottPlot.Plottables.VerticalLine one = plot.Add.VerticalLine(1, 1.5f, PlotSvg.Ink, LinePattern.DenselyDashed);
        one.IsVisible = markOne || widest >= 1;
        plot.Axes.Left.TickGenerator = new ScottPlot.TickGenerators.NumericManual(
            [.. Enumerable.Range(0, rows.Length).Select(i => -(double)i)], [.. rows.Select(row => row.Label)]);
        plot.Axes.Left.MajorTickStyle.Length = 0;
        plot.HideGrid();
        plot.Axes.SetLimits(0, 1.08 * Math.Max(widest, 1), -rows.Length + .4, .6);
        plot.XLabel(axis);

        float left = LetterWidth * rows.Max(row => row.Label.Length) + 16, right = LetterWidth * notes.Max(text => text.Item2.Length) + 10;
        return PlotSvg.Render(plot, axis, Width, RowHeight * rows.Length + 54, PlotSvg.Margins(left, right), notes);
    }

    private static void Whisker(Plot plot, double y, Quartiles value)
    {
        plot.Add.Line(value.Q1, y, value.Q3, y).Color = PlotSvg.Ink;
        plot.Add.Line(value.Q1, y - .15, value.Q1, y + .15).Color = PlotSvg.Ink;
        plot.Add.Line(value.Q3, y - .15, value.Q3, y + .15).Color = PlotSvg.Ink;
    }

    private static string Label(CaseResult result)
    {
        string name = $"{result.Path}/{result.Case}";
        return name.Length <= LongestLabel ? name : string.Concat(name.AsSpan(0, LongestLabel - 1), "…");
    }
}
