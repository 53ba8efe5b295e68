using System.Globalization;
using AuxCore.Bench.Experiments;
using AuxCore.Bench.Output;
using Spectre.Console;
using TorchSharp;

namespace AuxCore.Bench.Commands;

/// <summary><c>models</c>: one experiment, or the list of them.</summary>
internal static class ModelsCommand
{
    private const int Seeds = 5, QuickSeeds = 3;

    public static int Run(string? name, RunOptions options, CancellationToken cancellation)
    {
        List<ModelExperiment> experiments = [.. ModelCatalogue.All.Select(create => create())];
        string known = experiments.Count == 0
            ? "There are no experiments."
            : string.Join("\n", experiments.Select(e => $"  {e.Name}: {e.Claim}"));
        if (name is null)
        {
            if (options.Json is not null) throw new UsageException("--json needs the name of an experiment.");
            Console.WriteLine(known);
            return ExitCode.Ok;
        }

        ModelExperiment experiment = experiments.Find(e => string.Equals(e.Name, name, StringComparison.OrdinalIgnoreCase))
            ?? throw new UsageException($"No experiment is called '{name}'. There are:\n{known}");
        var settings = new ModelSettings(
            options.Backend, options.Threads, options.Quick, [.. Enumerable.Range(1, options.Quick ? QuickSeeds : Seeds)]);
        if (options.Train)
        {
            Action<ModelSettings, IProgress<double>, CancellationToken> train = experiment.Train
                ?? throw new UsageException($"models {experiment.Name} has no checkpoints: it trains whenever it runs.");
            return Progress.Run($"{experiment.Name}, training", progress =>
            {
                torch.set_num_threads(options.Threads);
                train(settings, progress, cancellation);
                return ExitCode.Ok;
            });
        }

        ModelResults results = Progress.Run(experiment.Name, progress =>
        {
            torch.set_num_threads(options.Threads);
            return experiment.Run(settings, progress, cancellation);
        });
        Show(results, experiment.HigherIsBetter);
        if (options.Json is { } path) ModelResultsFile.Write(path, results);
        string report = Path.Combine("artifacts", "bench", $"models-{experiment.Name}.html");
        MachineInfo machine = MachineInfo.Read();
        ModelCharts.Save(report, results, string.Create(CultureInfo.InvariantCulture,
            $"{machine.Summary()}; {machine.Software()}; commit {MachineInfo.Commit()}; {DateTimeOffset.UtcNow:yyyy-MM-dd HH:mm} UTC"
            + $"{(options.Quick ? "; quick run, rough figures" : "")}"));
        Console.WriteLine($"Report: {report}");
        return ExitCode.Ok;
    }

    private static void Show(ModelResults results, bool higherIsBetter)
    {
        Console.WriteLine($"{results.System}: {results.Claim}");
        foreach (string note in results.Notes ?? []) Console.WriteLine(note);
        if (results.Tables.Count > 0) ShowTables(results.Tables);
        else ShowRows(results);
        foreach (ModelDifference difference in (ModelDifference[])[results.Difference, .. results.Others ?? []])
        {
            string interval = difference is { Low: { } low, High: { } high }
                ? $", 95 % interval [{Format.Digits(low)}, {Format.Digits(high)}]"
                : "";
            string verdict = difference.Paired is { } paired ? $": {paired.Verdict(higherIsBetter && !difference.LowerIsBetter)}" : "";
            string metric = difference.Metric is { } name ? $"{name}: " : "";
            Console.WriteLine($"{metric}{difference.Arm} − {difference.Control}: {Format.Digits(difference.Mean)}{interval}{verdict}");
        }
    }

    private static void ShowTables(IReadOnlyList<ModelTable> tables)
    {
        foreach (ModelTable shown in tables)
        {
            Console.WriteLine();
            Console.WriteLine(shown.Title);
            Table table = new Table().Border(TableBorder.Simple).BorderColor(Color.Grey);
            for (int column = 0; column < shown.Headers.Count; column++)
            {
                var header = new TableColumn(Markup.Escape(shown.Headers[column]));
                table.AddColumn(column == 0 ? header : header.RightAligned());
            }

            foreach (IReadOnlyList<string> row in shown.Rows) table.AddRow(row.Select(cell => new Text(cell)));
            Terminal.Out.Write(table);
        }
    }

    private static void ShowRows(ModelResults results)
    {
        Table table = new Table().Border(TableBorder.Simple).BorderColor(Color.Grey);
        table.AddColumns("arm", "metric");
        table.AddColumn(new TableColumn("mean").RightAligned());
        table.AddColumn("each seed");
        foreach (ModelRow row in results.Rows)
        {
            table.AddRow(
                new Text(row.IsControl ? $"{row.Arm} (control)" : row.Arm), new Text(row.Metric),
                new Text(Format.Digits(row.Values.Average())),
                new Text(string.Join("  ", row.Values.Select(Format.Digits))));
        }

        Terminal.Out.Write(table);
    }
}
