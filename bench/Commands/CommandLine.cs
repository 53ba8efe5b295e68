using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Interop;

namespace AuxCore.Bench.Commands;

/// <summary>What the process returns.</summary>
internal static class ExitCode
{
    public const int Ok = 0, Failed = 1, BadUsage = 2, Cancelled = 130;
}

/// <summary>The command line is well formed and asks for something that does not exist; the message says what does.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>The verbs and how they end.</summary>
internal static class CommandLine
{
    private const string Dotnet = "dotnet run -c Release --project bench";

    private static readonly Dictionary<string, string[]> Examples = [];

    /// <summary>Parses, runs and returns an <see cref="ExitCode"/>.</summary>
    public static async Task<int> RunAsync(string[] args)
    {
        ParseResult parsed = Root().Parse(args);
        int code = await parsed.InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false });
        return parsed.Errors.Count > 0 ? ExitCode.BadUsage : code;
    }

    private static RootCommand Root()
    {
        var root = new RootCommand(
            "AuxCore's benchmark. Without a verb: a tour of the hot paths, each checked and timed, and a report in artifacts/bench.");
        foreach (Option option in RunOptions.All) root.Options.Add(option);
        Bind(root, (_, options, cancellation) => TourCommand.Run(options, cancellation), "", "--quick");

        var filter = new Argument<string?>("FILTER")
        {
            Description = "Only cases whose path/name contains this; all without it.", Arity = ArgumentArity.ZeroOrOne,
        };
        Add(root, "kernels", "Verify the kernels and time them against their baselines.", filter,
            (name, options, cancellation) => KernelsCommand.Run(name, options, cancellation),
            "", "ema --json ema.json", "ema/vit --threads 2");
        Add(root, "verify", "Check the kernels against their references, without timing.", filter,
            (name, options, cancellation) => KernelsCommand.Verify(name, options, cancellation), "", "ema --backend cpu");
        Add(root, "bdn", "Run the same cases under BenchmarkDotNet; its reports go to artifacts/bench/bdn.", filter,
            (name, options, _) => BdnCommand.Run(name, options), "ema/vit", "--quick");
        var experiment = new Argument<string?>("NAME")
        {
            Description = "The experiment to run; without it, they are listed.", Arity = ArgumentArity.ZeroOrOne,
        };
        Add(root, "models", "Train models against their control arms, seed by seed.", experiment,
            (name, options, cancellation) => ModelsCommand.Run(name, options, cancellation), "", "NAME --json result.json");
        AddData(root);
        Add(root, "info", "Show the machine, the backends and what can be run.", null,
            (_, options, _) => InfoCommand.Run(options), "");

        var help = (HelpOption)root.Options.Single(option => option is HelpOption);
        ((HelpAction)help.Action!).MaxWidth = Terminal.Width;
        help.Action = new HelpWithExamples((HelpAction)help.Action!);
        return root;
    }

    private static void AddData(RootCommand root)
    {
        var data = new Command("data", "The data sets: what there is, fetching the full ones.");
        root.Subcommands.Add(data);
        Bind(data, (_, _, _) => List(), "", "fetch fashion-mnist");
        Add(data, "list", "Show each data set: licence, source, whether the full one is in the cache.", null, (_, _, _) => List(), "");
        var id = new Argument<string?>("ID") { Description = "The data set; all of them without it.", Arity = ArgumentArity.ZeroOrOne };
        Add(data, "fetch", "Fetch the pinned version into the cache and verify it.", id, (name, _, _) => DataVerbs.Fetch(name, Console.Out),
            "", "fashion-mnist");
        Add(data, "fixture", "Make the committed excerpts again, from the full sets.", null,
            (_, _, _) => DataVerbs.Fixture(Console.Out), "");

        static int List()
        {
            DataVerbs.List(Console.Out);
            return ExitCode.Ok;
        }
    }

    private static void Add(
        Command parent, string name, string description, Argument<string?>? argument,
        Func<string?, RunOptions, CancellationToken, int> run, params string[] examples)
    {
        var command = new Command(name, description);
        if (argument is not null) command.Arguments.Add(argument);
        parent.Subcommands.Add(command);
        Bind(
            command, (parsed, options, cancellation) => run(argument is null ? null : parsed.GetValue(argument), options, cancellation),
            examples);
    }

    private static void Bind(Command command, Func<ParseResult, RunOptions, CancellationToken, int> run, params string[] examples)
    {
        IEnumerable<string> verbs =
            command.Parents.OfType<Command>().Where(parent => parent is not RootCommand).Append(command).Select(c => c.Name);
        string verb = command is RootCommand ? "" : string.Join(' ', verbs);
        Examples[command.Name] =
        [
            .. examples.Select(example => $"{verb} {example}".Trim()).Select(end => end.Length == 0 ? Dotnet : $"{Dotnet} -- {end}"),
        ];
        // Another thread, because Ctrl-C is listened for only after the action has returned its task.
        command.SetAction((parsed, cancellation) =>
            Task.Run(() => Guarded(() => run(parsed, RunOptions.From(parsed), cancellation)), CancellationToken.None));
    }

    private static int Guarded(Func<int> run)
    {
        try
        {
            return run();
        }
        catch (OperationCanceledException)
        {
            Console.Error.WriteLine("Cancelled.");
            return ExitCode.Cancelled;
        }
        catch (UsageException usage)
        {
            Console.Error.WriteLine(usage.Message);
            return ExitCode.BadUsage;
        }
        catch (Exception error)
        {
            // What the machine or the caller caused needs no stack trace.
            bool expected = error is IOException or UnauthorizedAccessException or AuxException;
            Console.Error.WriteLine(expected ? error.Message : error.ToString());
            return ExitCode.Failed;
        }
    }

    private sealed class HelpWithExamples(HelpAction help) : SynchronousCommandLineAction
    {
        public override int Invoke(ParseResult parseResult)
        {
            int code = help.Invoke(parseResult);
            TextWriter output = parseResult.InvocationConfiguration.Output;
            output.WriteLine("Examples:");
            foreach (string example in Examples[parseResult.CommandResult.Command.Name]) output.WriteLine($"  {example}");
            return code;
        }
    }
}
