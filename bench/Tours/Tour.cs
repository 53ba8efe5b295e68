using AuxCore.Bench.Cases;
using AuxCore.Bench.Output;
using Spectre.Console;

namespace AuxCore.Bench.Tours;

/// <summary>What a path of the tour works with.</summary>
/// <param name="Console">Where it tells what it does, in at most <see cref="Terminal.Width"/> columns.</param>
/// <param name="Report">Where it adds sections and charts; its heading is there already.</param>
/// <param name="Settings">How its cases are run.</param>
/// <param name="Cancellation">Set by Ctrl-C.</param>
internal sealed record TourContext(IAnsiConsole Console, HtmlReport Report, CaseSettings Settings, CancellationToken Cancellation);

/// <summary>One hot path in the tour: shown on real input first, then timed. Half a minute in all.</summary>
internal abstract class TourPath
{
    /// <summary>The heading, on the terminal and in the report.</summary>
    public abstract string Title { get; }

    /// <summary>The cases to verify and time: those of the catalogue that matter most.</summary>
    public abstract IReadOnlyList<Func<KernelCase>> Cases { get; }

    /// <summary>Runs the path on real input and says what came out.</summary>
    /// <exception cref="VerificationException">What came out is wrong; the tour goes on and fails at its end.</exception>
    public abstract void Demonstrate(TourContext context);
}

/// <summary>The tour's programme.</summary>
internal static class Tour
{
    /// <summary>The paths, in the order in which they are shown. A new one is one line here.</summary>
    public static IReadOnlyList<TourPath> Paths { get; } =
    [
        new EmaTour(),
        new SuccessorMeasureTour(),
        new TokenTour(),
        new KvTour(),
    ];
}
