using System.Diagnostics;
using Spectre.Console;

namespace AuxCore.Bench.Output;

/// <summary>
/// Shows how far long work has come: a bar with the time left on a terminal, now and then a line where output goes into a file.
/// </summary>
internal static class Progress
{
    private static readonly TimeSpan BetweenLines = TimeSpan.FromSeconds(10);

    /// <summary>Runs <paramref name="work"/>, which reports fractions between 0 and 1, and returns what it returns.</summary>
    public static T Run<T>(string title, Func<IProgress<double>, T> work) =>
        Terminal.IsInteractive ? WithBar(title, work) : WithLines(title, work);

    private static T WithBar<T>(string title, Func<IProgress<double>, T> work) =>
        Terminal.Out.Progress()
            .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn { Width = 30 }, new PercentageColumn(),
                new RemainingTimeColumn())
            .Start(context =>
            {
                ProgressTask task = context.AddTask(Markup.Escape(title), maxValue: 1);
                T result = work(new Callback(fraction => task.Value = fraction));
                task.Value = 1;
                return result;
            });

    private static T WithLines<T>(string title, Func<IProgress<double>, T> work)
    {
        var elapsed = Stopwatch.StartNew();
        TimeSpan next = BetweenLines;
        T result = work(new Callback(fraction =>
        {
            if (elapsed.Elapsed < next || fraction <= 0 || fraction >= 1) return;
            next = elapsed.Elapsed + BetweenLines;
            double left = elapsed.Elapsed.TotalSeconds * (1 - fraction) / fraction;
            Console.WriteLine($"{title}: {Format.Percent(fraction)}, about {Format.Number(left, "0")} s left");
        }));
        Console.WriteLine($"{title}: {Format.Number(elapsed.Elapsed.TotalSeconds, "0.0")} s");
        return result;
    }

    /// <summary><see cref="Progress{T}"/> would report from another thread, later and out of order.</summary>
    private sealed class Callback(Action<double> report) : IProgress<double>
    {
        public void Report(double value) => report(value);
    }
}
