using System.Globalization;
using System.Net;
using System.Text;
using AuxCore.Models;

namespace AuxCore.Bench.Output;

/// <summary>Frames of arcade games as pictures side by side, in SVG for <see cref="HtmlReport"/>: a colour a channel.</summary>
internal static class ArcadeSvg
{
    private const int Cell = 11, Gap = 14, Label = 120, Top = 22, Side = ArcadeEnvironment.Size * Cell;

    private static readonly string[] Colours =
    [
        "#3b7dd8", "#d0743c", "#e3c29e", "#4f9e5f", "#c94f6d", "#8b6fc0", "#d8b13b", "#58b7c4", "#9a5b3a", "#b9c94f",
    ];

    /// <summary>Rows of pictures.</summary>
    /// <param name="description">What a screen reader says.</param>
    /// <param name="rows">A name, how many cells a frame has, and frames as bits.</param>
    public static string Render(string description, IReadOnlyList<(string Name, int Cells, IReadOnlyList<byte[]> Frames)> rows)
    {
        int width = Label + rows.Max(row => row.Frames.Count) * (Side + Gap), height = Top + rows.Count * (Side + Gap);
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture,
            $"<svg viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" role=\"img\" ");
        svg.AppendLine(CultureInfo.InvariantCulture, $"aria-label=\"{WebUtility.HtmlEncode(description)}\">");
        for (int row = 0; row < rows.Count; row++)
        {
            int y = Top + row * (Side + Gap);
            svg.AppendLine(CultureInfo.InvariantCulture,
                $"<text x=\"0\" y=\"{y + Side / 2}\" fill=\"currentColor\">{WebUtility.HtmlEncode(rows[row].Name)}</text>");
            for (int column = 0; column < rows[row].Frames.Count; column++)
                Frame(svg, rows[row].Frames[column], rows[row].Cells, Label + column * (Side + Gap), y);
        }

        return svg.AppendLine("</svg>").ToString();
    }

    /// <summary>Frames of one game of random play, some steps apart.</summary>
    public static (string Name, int Cells, IReadOnlyList<byte[]> Frames) RandomPlay(ArcadeGame game, int frames, int between, int seed)
    {
        var environment = new ArcadeEnvironment(game, 1, seed);
        var (actions, rewards, done) = (new int[1], new float[1], new bool[1]);
        List<byte[]> seen = [];
        for (int step = 0; seen.Count < frames; step++)
        {
            if (step % between == between - 1)
            {
                var packed = new byte[environment.PackedBytes];
                environment.Observe(packed);
                seen.Add(packed);
            }

            environment.ActUniformly(actions);
            environment.Step(actions, rewards, done);
        }

        return (game.ToString(), environment.Cells, seen);
    }

    private static void Frame(StringBuilder svg, byte[] packed, int cells, int x, int y)
    {
        const int Plane = ArcadeEnvironment.Size * ArcadeEnvironment.Size;
        svg.Append(CultureInfo.InvariantCulture, $"<g transform=\"translate({x} {y})\" shape-rendering=\"crispEdges\">");
        svg.Append(CultureInfo.InvariantCulture, $"<rect width=\"{Side}\" height=\"{Side}\" fill=\"currentColor\" fill-opacity=\".12\"/>");
        for (int at = cells - 1; at >= 0; at--) // channels with low numbers lie on top
        {
            if ((packed[at / 8] >> at % 8 & 1) == 0) continue;
            int place = at % Plane;
            svg.Append(CultureInfo.InvariantCulture,
                $"<rect x=\"{place % ArcadeEnvironment.Size * Cell}\" y=\"{place / ArcadeEnvironment.Size * Cell}\" width=\"{Cell}\" ");
            svg.Append(CultureInfo.InvariantCulture, $"height=\"{Cell}\" fill=\"{Colours[at / Plane % Colours.Length]}\"/>");
        }

        svg.AppendLine("</g>");
    }
}
