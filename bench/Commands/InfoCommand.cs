using AuxCore.Bench.Cases;
using AuxCore.Bench.Experiments;
using AuxCore.Bench.Output;
using TorchSharp;

namespace AuxCore.Bench.Commands;

/// <summary><c>info</c>: the machine and what can be run on it.</summary>
internal static class InfoCommand
{
    public static int Run(RunOptions options)
    {
        MachineInfo machine = MachineInfo.Read();
        string commit = MachineInfo.Commit();
        Show(machine, commit);
        Console.WriteLine($"Kernel cases ({CaseCatalogue.All.Count}):");
        foreach (Func<KernelCase> create in CaseCatalogue.All)
        {
            using KernelCase kernel = create();
            Console.WriteLine($"  {CaseCatalogue.FullName(kernel)}: {kernel.Description}");
        }

        Console.WriteLine($"Experiments ({ModelCatalogue.All.Count}):");
        foreach (ModelExperiment experiment in ModelCatalogue.All.Select(create => create()))
            Console.WriteLine($"  {experiment.Name}: {experiment.Claim}");
        if (options.Json is { } path) ResultsFile.Write(path, new(machine, commit, DateTimeOffset.UtcNow, []));
        return ExitCode.Ok;
    }

    /// <summary>The lines that the tour begins with too.</summary>
    public static void Show(MachineInfo machine, string commit)
    {
        Console.WriteLine($"Machine:  {machine.Summary()}");
        Console.WriteLine($"Software: {machine.Software()}, TorchSharp {typeof(torch).Assembly.GetName().Version?.ToString(3)}");
        Console.WriteLine($"Commit:   {commit}");
    }
}
