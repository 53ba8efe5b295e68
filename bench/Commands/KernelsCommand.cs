using AuxCore.Bench.Cases;
using AuxCore.Bench.Output;
using Spectre.Console;
using TorchSharp;

namespace AuxCore.Bench.Commands;

/// <summary><c>kernels</c> and <c>verify</c>: cases of the catalogue, one after the other.</summary>
internal static class KernelsCommand
{
    /// <summary>Verifies and times.</summary>
    public static int Run(string? filter, RunOptions options, CancellationToken cancellation) =>
        Run(filter, options, timed: true, cancellation);

    /// <summary>Only verifies.</summary>
    public static int Verify(string? filter, RunOptions options, CancellationToken cancellation) =>
        Run(filter, options, timed: false, cancellation);

    /// <summary>The cases that match, or a <see cref="UsageException"/> that lists them all.</summary>
    public static IReadOnlyList<Func<KernelCase>> Select(string? filter)
    {
        IReadOnlyList<Func<KernelCase>> cases = CaseCatalogue.Matching(filter);
        if (cases.Count > 0 || filter is null) return cases;
        string known = string.Join("\n", CaseCatalogue.All.Select(create => $"  {CaseCatalogue.FullName(create)}"));
        throw new UsageException(known.Length == 0 ? "There are no cases." : $"No case matches '{filter}'. There are:\n{known}");
    }

    /// <summary>Runs cases with a bar for each. What fails is in its result and does not stop the others.</summary>
    public static List<CaseResult> RunAll(
        IReadOnlyList<Func<KernelCase>> cases, CaseSettings settings, bool timed, CancellationToken cancellation)
    {
        var results = new List<CaseResult>();
        foreach (Func<KernelCase> create in cases)
        {
            cancellation.ThrowIfCancellationRequested();
            using KernelCase kernel = create();
            CaseResult result = Progress.Run($"{results.Count + 1}/{cases.Count} {CaseCatalogue.FullName(kernel)}", progress =>
            {
                torch.set_num_threads(settings.Threads); // here, because OpenMP keeps it for each calling thread
                return timed ? CaseRunner.Run(kernel, settings, progress, cancellation) : CaseRunner.Verify(kernel, settings);
            });
            if (!timed && result.Failure is null) Console.WriteLine($"  right, largest error {Format.Error(result.MaxError)}");
            if (result.Failure is not null) Console.Error.WriteLine($"{CaseCatalogue.FullName(kernel)} failed: {result.Failure}");
            results.Add(result);
        }

        return results;
    }

    /// <summary>Prints the table.</summary>
    public static void Show(IReadOnlyList<CaseResult> results)
    {
        Terminal.Out.Write(ResultTable.Create(results));
        Console.WriteLine(ResultTable.Legend);
    }

    private static int Run(string? filter, RunOptions options, bool timed, CancellationToken cancellation)
    {
        List<CaseResult> results = RunAll(Select(filter), options.Settings, timed, cancellation);
        if (timed) Show(results);
        else Console.WriteLine($"{results.Count(result => result.Verified)} of {results.Count} cases verified.");
        if (options.Json is { } path)
            ResultsFile.Write(path, new(MachineInfo.Read(), MachineInfo.Commit(), DateTimeOffset.UtcNow, results));
        return results.Exists(result => result.Failure is not null) ? ExitCode.Failed : ExitCode.Ok;
    }
}
