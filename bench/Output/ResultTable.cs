using AuxCore.Bench.Cases;
using Spectre.Console;

namespace AuxCore.Bench.Output;

/// <summary>The table that a run ends with, for a terminal of <see cref="Terminal.Width"/> columns.</summary>
internal static class ResultTable
{
    // With one blank between them these columns take all of Terminal.Width, so that most names stay on one line; longer ones wrap.
    private static readonly (string Title, int Width, bool Number)[] Columns =
    [
        ("case", 26, false), ("ours", 7, true), ("best baseline", 22, false), ("speed-up [q1–q3]", 18, true), ("GB/s", 4, true),
        ("of bw", 5, true), ("error", 7, true), ("ok", 3, false),
    ];

    /// <summary>What the columns mean, to be printed below the table.</summary>
    public const string Legend =
        "speed-up: the baseline's time over ours, median [quartiles] of the rounds. of bw: our share of the\n" +
        "bandwidth of a triad or copy in the same rounds. error: the largest against the reference.";

    /// <summary>
    /// One row a case under its path's name, and below it one for the published expression, where there is one.
    /// </summary>
    public static Table Create(IEnumerable<CaseResult> results)
    {
        Table table = new Table().NoBorder();
        foreach ((string title, int width, bool number) in Columns)
        {
            var column = new TableColumn(new Text(title, new Style(decoration: Decoration.Bold)))
            {
                Width = width, NoWrap = number, Alignment = number ? Justify.Right : Justify.Left,
                Padding = new Padding(0, 0, title == Columns[^1].Title ? 0 : 1, 0),
            };
            table.AddColumn(column);
        }

        table.AddRow(Columns.Select(column => Text(new string('─', column.Width), Quiet)));
        string? path = null;
        foreach (CaseResult result in results)
        {
            if (result.Path != path) table.AddRow(Text(path = result.Path, new Style(decoration: Decoration.Bold)));
            AddRows(table, result);
        }

        return table;
    }

    private static Style Quiet { get; } = new(Color.Grey);

    private static void AddRows(Table table, CaseResult result)
    {
        BaselineResult? best = result.Baseline(BaselineKind.Best), published = result.Baseline(BaselineKind.Published);
        table.AddRow(
            Text(result.Case),
            Text(result.OursUs is { } ours ? Format.Time(ours.Median) : Format.Missing),
            Baseline(best),
            Text(best is null ? Format.Missing : Format.Ratio(best.Speedup), best is null ? Style.Plain : Emphasis(best)),
            Text(Format.Rate(result.GbPerS)),
            Text(Format.Percent(result.BandwidthFraction)),
            Text(Format.Error(result.MaxError)),
            result.Failure is not null ? Text("NO", new Style(Color.Red, decoration: Decoration.Bold))
            : result.Verified ? Text("yes", new Style(Color.Green)) : Text(Format.Missing));
        if (published is null) return;
        table.AddRow(Text("  as published", Quiet), Text(""), Baseline(published, Quiet), Text(Format.Ratio(published.Speedup), Quiet));
    }

    private static Text Baseline(BaselineResult? baseline, Style? style = null) =>
        Text(baseline is null ? Format.Missing : $"{Format.Time(baseline.Us.Median)} {baseline.Name}", style);

    // Green and red only where the quartiles are on one side of 1.
    private static Style Emphasis(BaselineResult baseline) =>
        baseline.Speedup.Q1 > 1 ? new Style(Color.Green) : baseline.Speedup.Q3 < 1 ? new Style(Color.Red) : Style.Plain;

    // Wrapping cuts a name that is longer than its column.
    private static Text Text(string text, Style? style = null) => new(text, style) { Overflow = Overflow.Fold };
}
