using System.CommandLine;
using AuxCore.Bench.Cases;
using AuxCore.Interop;

namespace AuxCore.Bench.Commands;

/// <summary>The options that every verb takes.</summary>
/// <param name="Json">Where to write the results as JSON; null for nowhere.</param>
/// <param name="Quick">Fewer rounds.</param>
/// <param name="Backend">The AuxCore backend, in lower case.</param>
/// <param name="Threads">How many threads libtorch and AuxCore may use.</param>
/// <param name="Train">Train what an experiment's committed checkpoints hold, instead of evaluating it.</param>
internal sealed record RunOptions(string? Json, bool Quick, string Backend, int Threads, bool Train = false)
{
    private const int Seed = 1;

    private static readonly Option<string?> JsonOption = new("--json")
    {
        Description = "Also write the results to this file, as JSON.", HelpName = "PATH", Recursive = true,
    };

    private static readonly Option<bool> QuickOption = new("--quick")
    {
        Description = "Fewer rounds: shows that everything runs; the figures are rough.", Recursive = true,
    };

    private static readonly Option<string> BackendOption = new("--backend")
    {
        Description = "The AuxCore backend to run; it runs or fails, and never falls back.",
        HelpName = "NAME", Recursive = true, DefaultValueFactory = _ => "cpu",
    };

    private static readonly Option<int> ThreadsOption = new("--threads")
    {
        Description = "Threads for AuxCore and libtorch; one is timed by its processor time, more by wall time.",
        HelpName = "N", Recursive = true, DefaultValueFactory = _ => 1,
    };

    private static readonly Option<bool> TrainOption = new("--train")
    {
        Description = "Of models: train the checkpoints that the experiment evaluates; what was broken off goes on.", Recursive = true,
    };

    static RunOptions()
    {
        // Auto is not offered: a result has to say what ran.
        BackendOption.AcceptOnlyFromAmong(
            [.. Enum.GetValues<AuxBackend>().Where(b => b != AuxBackend.Auto).Select(b => b.ToString().ToLowerInvariant())]);
        ThreadsOption.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int threads) && threads < 1)
                result.AddError($"--threads must be at least 1, not {threads}.");
        });
    }

    /// <summary>What the cases are prepared with.</summary>
    public CaseSettings Settings => new(Backend, Threads, Quick, Seed);

    /// <summary>The options, to be added to the root command.</summary>
    public static IReadOnlyList<Option> All { get; } = [JsonOption, QuickOption, BackendOption, ThreadsOption, TrainOption];

    /// <summary>Reads them from a command line without errors.</summary>
    public static RunOptions From(ParseResult parsed) => new(
        parsed.GetValue(JsonOption), parsed.GetValue(QuickOption),
        parsed.GetRequiredValue(BackendOption), parsed.GetRequiredValue(ThreadsOption), parsed.GetValue(TrainOption));
}
