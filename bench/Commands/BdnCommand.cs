using AuxCore.Bench.Cases;
using AuxCore.Models;
using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Exporters;
using BenchmarkDotNet.Exporters.Json;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using TorchSharp;

namespace AuxCore.Bench.Commands;

/// <summary>
/// <c>bdn</c>: the cases of the catalogue under BenchmarkDotNet, for its own statistics. It times one arm after the other, so on a shared
/// machine the ratios of <c>kernels</c> are the ones to trust.
/// </summary>
internal static class BdnCommand
{
    public static int Run(string? filter, RunOptions options)
    {
        CaseBenchmarks.Choose(KernelsCommand.Select(filter), options.Settings);
        Summary summary = BenchmarkRunner.Run<CaseBenchmarks>(Configuration(options.Quick));
        BenchmarkReport[] failed = [.. summary.Reports.Where(report => !report.Success || report.ResultStatistics is null)];
        foreach (BenchmarkReport report in failed) Console.Error.WriteLine($"{report.BenchmarkCase.DisplayInfo} gave no result.");
        if (summary.Reports.IsEmpty) Console.Error.WriteLine("BenchmarkDotNet ran nothing.");
        if (summary.HasCriticalValidationErrors || summary.Reports.IsEmpty || failed.Length > 0) return ExitCode.Failed;

        string brief = Path.Combine(summary.ResultsDirectoryPath, $"{typeof(CaseBenchmarks).FullName}-report-brief.json");
        if (options.Json is { } path) AtomicFile.WriteAllText(path, File.ReadAllText(brief));
        return ExitCode.Ok;
    }

    private static ManualConfig Configuration(bool quick)
    {
        // In this process: the default toolchain builds a project of its own, which lacks the fix that makes TorchSharp load.
        Job job = (quick ? Job.Dry : Job.Default).WithToolchain(new InProcessEmitToolchain(TimeSpan.FromHours(1), logOutput: true));
        return ManualConfig.CreateEmpty()
            .AddJob(job)
            .AddLogger(ConsoleLogger.Default)
            .AddColumnProvider(DefaultColumnProviders.Instance)
            .AddExporter(MarkdownExporter.GitHub, JsonExporter.Brief)
            .WithSummaryStyle(SummaryStyle.Default.WithMaxParameterColumnWidth(80))
            .WithArtifactsPath(Path.Combine("artifacts", "bench", "bdn"));
    }
}

/// <summary>
/// The one benchmark class: its parameter is a case and one of its arms. Public because the code that BenchmarkDotNet emits calls it.
/// </summary>
public class CaseBenchmarks
{
    private static readonly Dictionary<string, (Func<KernelCase> Create, Func<KernelCase, CaseArm> Arm)> Choices = [];
    private static CaseSettings Settings = new("cpu", 1, false, 1);

    private KernelCase? _case;
    private Action _run = () => { };

    /// <summary>The values of <see cref="Arm"/>.</summary>
    public static IEnumerable<string> Arms => Choices.Keys;

    /// <summary>The case, and what runs in it.</summary>
    [ParamsSource(nameof(Arms))]
    public string Arm { get; set; } = "";

    [GlobalSetup]
    public void Prepare()
    {
        torch.set_num_threads(Settings.Threads);
        (Func<KernelCase> create, Func<KernelCase, CaseArm> arm) = Choices[Arm];
        _case = create();
        _case.Prepare(Settings);
        _run = arm(_case).Run;
    }

    [GlobalCleanup]
    public void Cleanup() => _case?.Dispose();

    [Benchmark]
    public void Run() => _run();

    /// <summary>Sets what is run. Each case is prepared once here, because its arms may be known only then.</summary>
    internal static void Choose(IEnumerable<Func<KernelCase>> cases, CaseSettings settings)
    {
        Settings = settings;
        Choices.Clear();
        foreach (Func<KernelCase> create in cases)
        {
            using KernelCase kernel = create();
            kernel.Prepare(settings);
            string name = CaseCatalogue.FullName(kernel);
            Choices[$"{name}: ours"] = (create, prepared => prepared.Ours);
            for (int i = 0; i < kernel.BestCandidates.Count; i++)
            {
                int index = i;
                Choices[$"{name}: {kernel.BestCandidates[i].Name}"] = (create, prepared => prepared.BestCandidates[index]);
            }

            if (kernel.Published is { } published)
                Choices[$"{name}: {published.Name} (published)"] = (create, prepared => prepared.Published!);
        }
    }
}
