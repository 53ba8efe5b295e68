using System.Globalization;
using System.Net;
using System.Text;
using SkiaSharp;

namespace AuxCore.Bench.Output;

/// <summary>Grey images side by side, with the patches that were dropped veiled, in SVG for <see cref="HtmlReport"/>.</summary>
internal static class PatchSvg
{
    private const int Side = 112, Gap = 12, Label = 150;

    /// <summary>Rows of the same images.</summary>
    /// <param name="description">What a screen reader says.</param>
    /// <param name="images">Square images of 8 bits.</param>
    /// <param name="rows">A name and, for each image, whether each of its patches is kept, row by row; null for all.</param>
    public static string Render(
        string description, IReadOnlyList<byte[]> images, IReadOnlyList<(string Name, IReadOnlyList<bool[]>? Kept)> rows)
    {
        int width = Label + images.Count * (Side + Gap), height = rows.Count * (Side + Gap);
        string[] pixels = [.. images.Select(Png)];
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture, $"<svg viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" role=\"img\" ");
        svg.AppendLine(CultureInfo.InvariantCulture, $"aria-label=\"{WebUtility.HtmlEncode(description)}\">");
        for (int i = 0; i < pixels.Length; i++)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<defs><image id=\"canvas{i}\" width=\"{Side}\" height=\"{Side}\" ");
            svg.AppendLine(CultureInfo.InvariantCulture, $"style=\"image-rendering:pixelated\" href=\"{pixels[i]}\"/></defs>");
        }

        for (int row = 0; row < rows.Count; row++)
        {
            int y = row * (Side + Gap);
            svg.AppendLine(CultureInfo.InvariantCulture,
                $"<text x=\"0\" y=\"{y + Side / 2}\" fill=\"currentColor\">{WebUtility.HtmlEncode(rows[row].Name)}</text>");
            for (int i = 0; i < pixels.Length; i++)
                Picture(svg, $"canvas{i}", Label + i * (Side + Gap), y, rows[row].Kept?[i]);
        }

        return svg.AppendLine("</svg>").ToString();
    }

    private static void Picture(StringBuilder svg, string id, int x, int y, bool[]? kept)
    {
        svg.Append(CultureInfo.InvariantCulture, $"<g transform=\"translate({x} {y})\" shape-rendering=\"crispEdges\">");
        svg.Append(CultureInfo.InvariantCulture, $"<use href=\"#{id}\"/>");
        int grid = kept is null ? 0 : (int)Math.Sqrt(kept.Length);
        for (int patch = 0; patch < grid * grid; patch++)
        {
            if (kept![patch]) continue;
            double cell = (double)Side / grid;
            svg.Append(CultureInfo.InvariantCulture, $"<rect x=\"{patch % grid * cell:0.##}\" y=\"{patch / grid * cell:0.##}\" ");
            svg.Append(CultureInfo.InvariantCulture,
                $"width=\"{cell:0.##}\" height=\"{cell:0.##}\" fill=\"#d0743c\" fill-opacity=\".75\"/>");
        }

        svg.AppendLine("</g>");
    }

    private static string Png(byte[] pixels)
    {
        int side = (int)Math.Sqrt(pixels.Length);
        using var bitmap = new SKBitmap(side, side, SKColorType.Gray8, SKAlphaType.Opaque);
        pixels.CopyTo(bitmap.GetPixelSpan());
        using SKData png = bitmap.Encode(SKEncodedImageFormat.Png, quality: 100);
        return $"data:image/png;base64,{Convert.ToBase64String(png.AsSpan())}";
    }
}
