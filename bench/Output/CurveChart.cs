using ScottPlot;

namespace AuxCore.Bench.Output;

/// <summary>Learning curves: a line an arm, the mean over the seeds.</summary>
internal static class CurveChart
{
    private const int Width = 860, Height = 320, RightMargin = 190;

    private static readonly Color[] Palette =
    [
        Color.FromHex("#3b7dd8"), Color.FromHex("#8b949e"), Color.FromHex("#d0743c"), Color.FromHex("#4f9e5f"), Color.FromHex("#8b6fc0"),
    ];

    /// <summary>The chart of one metric.</summary>
    public static string Of(string metric, IReadOnlyList<ModelCurve> curves)
    {
        var plot = new Plot();
        var notes = new List<(Coordinates, string)>();
        double most = double.NegativeInfinity, least = double.PositiveInfinity;
        var ends = new List<(double Y, string Arm)>();
        for (int i = 0; i < curves.Count; i++)
        {
            double[] means = [.. Enumerable.Range(0, curves[i].Frames.Count).Select(at => curves[i].Values.Average(seed => seed[at]))];
            ScottPlot.Plottables.Scatter line = plot.Add.Scatter(curves[i].Frames.ToArray(), means);
            (line.Color, line.LineWidth, line.MarkerSize) = (Palette[i % Palette.Length], 2.5f, 0);
            (least, most) = (Math.Min(least, means.Min()), Math.Max(most, means.Max()));
            ends.Add((means[^1], curves[i].Arm));
        }

        // The legend stands at the lines' ends, moved apart where they meet.
        double x = curves[0].Frames[^1], gap = Math.Max(1e-9, (most - least) * 0.07), at = double.NegativeInfinity;
        foreach ((double y, string arm) in ends.OrderBy(end => end.Y))
        {
            at = Math.Max(y, at + gap);
            notes.Add((new(x, at), arm));
        }

        plot.Axes.SetLimits(0, x, least - gap, Math.Max(most, at) + gap);
        plot.XLabel("frames");
        return PlotSvg.Render(plot, metric, Width, Height, PlotSvg.Margins(60, RightMargin), notes);
    }
}
