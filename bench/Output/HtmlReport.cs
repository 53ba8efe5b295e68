using System.Globalization;
using System.Net;
using System.Text;
using AuxCore.Bench.Cases;
using AuxCore.Models;

namespace AuxCore.Bench.Output;

/// <summary>One HTML file that needs nothing else: text, tables and inline SVG, readable on light and dark screens.</summary>
/// <param name="title">The page's heading.</param>
/// <param name="subtitle">One line below it: where and when.</param>
internal sealed class HtmlReport(string title, string subtitle)
{
    private readonly StringBuilder _body = new();

    /// <summary>Makes text safe to stand in HTML.</summary>
    public static string Escape(string text) => WebUtility.HtmlEncode(text);

    /// <summary>A heading above several sections.</summary>
    public void AddChapter(string title) => _body.AppendLine(CultureInfo.InvariantCulture, $"<h2>{Escape(title)}</h2>");

    /// <summary>A heading and paragraphs. The title is escaped; the paragraphs are HTML, so escape what comes from elsewhere.</summary>
    public void AddSection(string title, params IReadOnlyList<string> htmlParagraphs)
    {
        _body.AppendLine(CultureInfo.InvariantCulture, $"<h3>{Escape(title)}</h3>");
        foreach (string paragraph in htmlParagraphs) _body.AppendLine(CultureInfo.InvariantCulture, $"<p>{paragraph}</p>");
    }

    /// <summary>
    /// A picture with its caption; <paramref name="svg"/> comes from <see cref="PlotSvg.Render"/>. An empty picture adds nothing.
    /// </summary>
    public void AddChart(string title, string svg)
    {
        if (svg.Length > 0)
            _body.AppendLine(CultureInfo.InvariantCulture, $"<figure><figcaption>{Escape(title)}</figcaption>\n{svg}</figure>");
    }

    /// <summary>
    /// A table of plain text. Columns after the first whose cells begin with a digit, a sign or a dash are set as numbers.
    /// </summary>
    public void AddTable(IReadOnlyList<string> headers, IEnumerable<IReadOnlyList<string>> rows)
    {
        List<IReadOnlyList<string>> all = [.. rows];
        bool[] numeric = [.. headers.Select((_, column) => column > 0 && all.Count > 0 && all.TrueForAll(row => IsNumber(row[column])))];
        _body.Append("<div class=\"table\"><table><thead>");
        AppendRow("th", headers);
        _body.Append("</thead><tbody>");
        foreach (IReadOnlyList<string> row in all) AppendRow("td", row);
        _body.AppendLine("</tbody></table></div>");

        void AppendRow(string tag, IReadOnlyList<string> cells)
        {
            _body.Append("<tr>");
            for (int column = 0; column < cells.Count; column++)
            {
                string start = numeric[column] ? $"{tag} class=\"n\"" : tag;
                _body.Append(CultureInfo.InvariantCulture, $"<{start}>{Escape(cells[column])}</{tag}>");
            }

            _body.AppendLine("</tr>");
        }
    }

    /// <summary>Kernel results: the two charts and a table of every baseline.</summary>
    public void AddResults(IReadOnlyList<CaseResult> results)
    {
        AddChart("Speed-up over the best baseline: median and quartiles of the rounds", ResultCharts.Speedups(results));
        AddChart("Share of the memory bandwidth", ResultCharts.Bandwidths(results));
        AddTable(
            [
                "case", "dtype", "threads", "ours", "baseline", "kind", "its time", "speed-up", "GB/s", "of bandwidth", "max error",
                "verified",
            ],
            results.SelectMany(Rows));
    }

    /// <summary>Writes the page, whole or not at all.</summary>
    public void Save(string path) => AtomicFile.WriteAllText(path, $"""
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>{Escape(title)}</title>
        <style>{Style}</style>
        </head>
        <body>
        <h1>{Escape(title)}</h1>
        <p class="quiet">{Escape(subtitle)}</p>
        {_body}</body>
        </html>

        """);

    private static IEnumerable<string[]> Rows(CaseResult result)
    {
        string ours = result.OursUs is { } time ? Format.Time(time.Median) : Format.Missing;
        string verified = result.Failure ?? (result.Verified ? "yes" : "no");
        string[] head = [$"{result.Path}/{result.Case}", result.DType, Format.Number(result.Threads, "0"), ours];
        string[] tail = [Format.Rate(result.GbPerS), Format.Percent(result.BandwidthFraction), Format.Error(result.MaxError), verified];
        if (result.Baselines.Count == 0) yield return [.. head, Format.Missing, Format.Missing, Format.Missing, Format.Missing, .. tail];
        for (int i = 0; i < result.Baselines.Count; i++)
        {
            BaselineResult baseline = result.Baselines[i];
            string[] middle =
            [
                baseline.Name, baseline.Kind.ToString().ToLowerInvariant(),
                Format.Time(baseline.Us.Median), Format.Ratio(baseline.Speedup),
            ];
            yield return i == 0 ? [.. head, .. middle, .. tail] : ["", "", "", "", .. middle, "", "", "", ""];
        }
    }

    private static bool IsNumber(string cell) => cell.Length == 0 || char.IsAsciiDigit(cell[0]) || cell[0] is '-' or '+' or '–';

    private const string Style = """

        :root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --quiet: #59636e; --line: #d1d9e0; }
        @media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --quiet: #9198a1; --line: #3d444d; } }
        body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--back); color: var(--text);
               font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
        h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { margin-bottom: .4rem; }
        p { max-width: 48rem; } .quiet { color: var(--quiet); margin-top: .2rem; }
        figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
        svg { width: 100%; height: auto; display: block; overflow: visible; } svg text { font-size: 13px; font-family: inherit; }
        .table { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
        th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); }
        th { color: var(--quiet); font-weight: 600; } .n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }

        """;
}
