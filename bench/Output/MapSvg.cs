using System.Globalization;
using System.Net;
using System.Text;

namespace AuxCore.Bench.Output;

/// <summary>Functions of the cells of a map as pictures side by side, in SVG for <see cref="HtmlReport"/>.</summary>
internal static class MapSvg
{
    private const int Cell = 13, Gap = 22, Label = 120, Top = 24;

    /// <summary>
    /// Rows of pictures. Each function has its own scale: white is 0, full blue the largest magnitude above, full orange below.
    /// </summary>
    /// <param name="description">What a screen reader says.</param>
    /// <param name="columns">What stands above each column.</param>
    /// <param name="rows">A name and one function a column, each a value a cell.</param>
    /// <param name="size">Rows and columns of the map.</param>
    /// <param name="position">The place of a cell.</param>
    public static string Render(
        string description, IReadOnlyList<string> columns, IReadOnlyList<(string Name, IReadOnlyList<double[]> Functions)> rows, int size,
        Func<int, (int Row, int Column)> position)
    {
        int side = size * Cell, width = Label + columns.Count * (side + Gap), height = Top + rows.Count * (side + Gap);
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture,
            $"<svg viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" role=\"img\" ");
        svg.AppendLine(CultureInfo.InvariantCulture, $"aria-label=\"{WebUtility.HtmlEncode(description)}\">");
        for (int column = 0; column < columns.Count; column++)
            Text(svg, columns[column], Label + column * (side + Gap) + side / 2, Top - 8, "middle");
        for (int row = 0; row < rows.Count; row++)
        {
            int y = Top + row * (side + Gap);
            Text(svg, rows[row].Name, 0, y + side / 2, "start");
            for (int column = 0; column < columns.Count; column++)
                Map(svg, rows[row].Functions[column], Label + column * (side + Gap), y, side, position);
        }

        return svg.AppendLine("</svg>").ToString();
    }

    private static void Map(StringBuilder svg, double[] values, int x, int y, int side, Func<int, (int Row, int Column)> position)
    {
        svg.Append(CultureInfo.InvariantCulture, $"<g transform=\"translate({x} {y})\" shape-rendering=\"crispEdges\">");
        svg.Append(CultureInfo.InvariantCulture, $"<rect width=\"{side}\" height=\"{side}\" fill=\"currentColor\" fill-opacity=\".35\"/>");
        double largest = values.Max(Math.Abs);
        for (int cell = 0; cell < values.Length; cell++)
        {
            (int row, int column) = position(cell);
            string colour = Colour(largest > 0 ? values[cell] / largest : 0);
            svg.Append(CultureInfo.InvariantCulture,
                $"<rect x=\"{column * Cell}\" y=\"{row * Cell}\" width=\"{Cell}\" height=\"{Cell}\" fill=\"{colour}\"/>");
        }

        svg.AppendLine("</g>");
    }

    private static void Text(StringBuilder svg, string text, int x, int y, string anchor) => svg.AppendLine(CultureInfo.InvariantCulture,
        $"<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{WebUtility.HtmlEncode(text)}</text>");

    // From white to the colours that the charts have; NaN is black.
    private static string Colour(double value)
    {
        if (double.IsNaN(value)) return "#000000";
        (int red, int green, int blue) = value >= 0 ? (0x3b, 0x7d, 0xd8) : (0xd0, 0x74, 0x3c);
        double share = Math.Min(1, Math.Abs(value));
        int Mix(int full) => (int)Math.Round(255 + (full - 255) * share);
        return string.Create(CultureInfo.InvariantCulture, $"#{Mix(red):x2}{Mix(green):x2}{Mix(blue):x2}");
    }
}
