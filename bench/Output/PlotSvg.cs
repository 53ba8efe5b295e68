using System.Globalization;
using System.Net;
using System.Text;
using System.Text.RegularExpressions;
using ScottPlot;

namespace AuxCore.Bench.Output;

/// <summary>
/// Turns a ScottPlot plot into SVG for <see cref="HtmlReport"/>. ScottPlot draws the shapes; its text is left out and written as SVG text
/// in its place, in the page's font and colour, because SkiaSharp drops every letter on a machine without fonts, such as a container. What
/// has <see cref="Ink"/>'s colour takes the page's text colour, so that one picture serves light and dark pages.
/// </summary>
internal static partial class PlotSvg
{
    /// <summary>The colour to give lines and whiskers that should follow the page's text colour.</summary>
    public static Color Ink { get; } = new(1, 2, 3);

    /// <summary>Room around the data area, in pixels.</summary>
    public static PixelPadding Margins(float left, float right) => new(left, right, bottom: 44, top: 10);

    /// <summary>Renders at a fixed size; ticks and axis labels are taken from the plot's left and bottom axes.</summary>
    /// <param name="plot">The plot; its styles are changed.</param>
    /// <param name="description">What a screen reader says.</param>
    /// <param name="width">Pixels.</param>
    /// <param name="height">Pixels.</param>
    /// <param name="margins">Room for ticks and labels.</param>
    /// <param name="notes">More text, to the right of places in data coordinates; a legend has to be written so too.</param>
    public static string Render(
        Plot plot, string description, int width, int height, PixelPadding margins,
        IEnumerable<(Coordinates At, string Text)>? notes = null)
    {
        plot.FigureBackground.Color = Colors.Transparent;
        plot.DataBackground.Color = Colors.Transparent;
        plot.Axes.Color(Ink);
        plot.Axes.Top.FrameLineStyle.IsVisible = plot.Axes.Right.FrameLineStyle.IsVisible = false; // notes may reach beyond the data area
        plot.Grid.MajorLineColor = Ink.WithAlpha(.15);
        plot.Layout.Fixed(margins);
        string leftLabel = plot.Axes.Left.Label.Text, bottomLabel = plot.Axes.Bottom.Label.Text;
        foreach (IAxis axis in plot.Axes.GetAxes())
        {
            axis.TickLabelStyle.IsVisible = false;
            axis.Label.IsVisible = false;
        }

        plot.Axes.Title.IsVisible = false;
        string shapes = plot.GetSvgXml(width, height);

        var text = new StringBuilder();
        PixelRect area = plot.RenderManager.LastRender.DataRect;
        foreach (Tick tick in plot.Axes.Bottom.TickGenerator.Ticks.Where(tick => tick.IsMajor))
            Append(text, tick.Label, plot.Axes.Bottom.GetPixel(tick.Position, area), area.Bottom + 18, "middle");
        foreach (Tick tick in plot.Axes.Left.TickGenerator.Ticks.Where(tick => tick.IsMajor))
            Append(text, tick.Label, area.Left - 8, plot.Axes.Left.GetPixel(tick.Position, area) + 4, "end");
        foreach ((Coordinates at, string note) in notes ?? [])
            Append(text, note, plot.Axes.Bottom.GetPixel(at.X, area) + 6, plot.Axes.Left.GetPixel(at.Y, area) + 4, "start");
        Append(text, bottomLabel, area.HorizontalCenter, area.Bottom + 38, "middle");
        Append(text, leftLabel, area.Left, area.Top - 4, "end");

        string label = WebUtility.HtmlEncode(description);
        string svg = InkHex().Replace(XmlDeclaration().Replace(shapes, ""), "currentColor").Replace(
            $"width=\"{width}\" height=\"{height}\"",
            $"viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" role=\"img\" aria-label=\"{label}\"",
            StringComparison.Ordinal);
        return svg.Insert(svg.LastIndexOf("</svg>", StringComparison.Ordinal), text.ToString());
    }

    private static void Append(StringBuilder svg, string? text, float x, float y, string anchor)
    {
        if (!string.IsNullOrEmpty(text))
            svg.AppendLine(CultureInfo.InvariantCulture,
                $"<text x=\"{x:0.#}\" y=\"{y:0.#}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{WebUtility.HtmlEncode(text)}</text>");
    }

    [GeneratedRegex(@"^\s*<\?xml[^>]*\?>\s*")]
    private static partial Regex XmlDeclaration();

    [GeneratedRegex("#010203", RegexOptions.IgnoreCase)]
    private static partial Regex InkHex();
}
