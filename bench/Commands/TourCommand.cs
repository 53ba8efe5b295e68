using System.Globalization;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Output;
using AuxCore.Bench.Tours;
using Spectre.Console;
using TorchSharp;

namespace AuxCore.Bench.Commands;

/// <summary>No verb: each hot path on real input, checked and timed; then one table, the report and its data.</summary>
internal static class TourCommand
{
    private static readonly string Folder = Path.Combine("artifacts", "bench");

    public static int Run(RunOptions options, CancellationToken cancellation)
    {
        torch.set_num_threads(options.Threads);
        MachineInfo machine = MachineInfo.Read();
        string commit = MachineInfo.Commit();
        InfoCommand.Show(machine, commit);

        DateTimeOffset now = DateTimeOffset.UtcNow;
        string caution = options.Quick ? "; quick run, rough figures" : "";
        var report = new HtmlReport("AuxCore benchmark", string.Create(CultureInfo.InvariantCulture,
            $"{machine.Summary()}; {machine.Software()}; commit {commit}; {now:yyyy-MM-dd HH:mm} UTC{caution}"));
        var results = new List<CaseResult>();
        bool failed = false;
        foreach (TourPath path in Tour.Paths)
        {
            Console.WriteLine();
            Terminal.Out.Write(new Rule(Markup.Escape(path.Title)).LeftJustified());
            report.AddChapter(path.Title);
            try
            {
                path.Demonstrate(new(Terminal.Out, report, options.Settings, cancellation));
            }
            catch (VerificationException wrong)
            {
                failed = true;
                Console.Error.WriteLine($"{path.Title} failed: {wrong.Message}");
                report.AddSection("Failed", HtmlReport.Escape(wrong.Message));
            }

            List<CaseResult> timed = KernelsCommand.RunAll(path.Cases, options.Settings, timed: true, cancellation);
            report.AddResults(timed);
            results.AddRange(timed);
        }

        Console.WriteLine();
        KernelsCommand.Show(results);
        string reportPath = Path.Combine(Folder, "report.html"), jsonPath = options.Json ?? Path.Combine(Folder, "results.json");
        report.Save(reportPath);
        ResultsFile.Write(jsonPath, new(machine, commit, now, results));
        Console.WriteLine($"Report: {reportPath}");
        Console.WriteLine($"Data:   {jsonPath}");
        return failed || results.Exists(result => result.Failure is not null) ? ExitCode.Failed : ExitCode.Ok;
    }
}
