using Spectre.Console;

namespace AuxCore.Bench.Output;

/// <summary>The console that the benchmark draws on.</summary>
internal static class Terminal
{
    /// <summary>The columns that every table fits.</summary>
    public const int Width = 100;

    /// <summary>
    /// Standard output. Redirected, it is plain text of <see cref="Width"/> columns, whatever the environment says about colours.
    /// </summary>
    public static IAnsiConsole Out { get; } = Create();

    /// <summary>Whether progress bars can be drawn.</summary>
    public static bool IsInteractive => Out.Profile.Capabilities.Interactive;

    private static IAnsiConsole Create()
    {
        if (!Console.IsOutputRedirected) return AnsiConsole.Create(new AnsiConsoleSettings());
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Ansi = AnsiSupport.No, ColorSystem = ColorSystemSupport.NoColors, Interactive = InteractionSupport.No,
            Enrichment = new ProfileEnrichment { UseDefaultEnrichers = false }, // on CI services they switch control sequences on again
        });
        console.Profile.Width = Width;
        return console;
    }
}
