using System.ComponentModel;
using System.Diagnostics;

namespace AuxCore.Bench.Data;

/// <summary>The two Debian tools that fetch and unpack a package without installing it. Neither needs root.</summary>
/// <param name="AptGet">The name or path of <c>apt-get</c>; tests put a script in its place.</param>
/// <param name="DpkgDeb">The name or path of <c>dpkg-deb</c>.</param>
internal sealed record AptTools(string AptGet = "apt-get", string DpkgDeb = "dpkg-deb")
{
    private const int ErrorLinesShown = 5;

    /// <summary>Downloads exactly that version into <paramref name="folder"/>, which must be empty.</summary>
    /// <returns>The path of the package file.</returns>
    /// <exception cref="DataUnavailableException">apt-get is not there, or did not deliver.</exception>
    public string Download(string package, string version, string folder)
    {
        Run(AptGet, ["-q", "download", $"{package}={version}"], folder);
        return Directory.GetFiles(folder, "*.deb") is [var archive]
            ? archive
            : throw new DataUnavailableException($"`{AptGet} download {package}={version}` reported success but left no package file");
    }

    /// <summary>Unpacks a package file into <paramref name="folder"/>.</summary>
    /// <exception cref="DataUnavailableException">dpkg-deb is not there, or could not unpack the file.</exception>
    public void Unpack(string archive, string folder) => Run(DpkgDeb, ["-x", archive, folder], folder);

    private static void Run(string program, string[] arguments, string folder)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = Start(start);
        process.StandardInput.Close();
        // Both pipes are drained at once: a tool that fills the one that nobody reads would wait for ever.
        var output = process.StandardOutput.ReadToEndAsync();
        var errors = process.StandardError.ReadToEnd();
        output.Wait();
        process.WaitForExit();
        if (process.ExitCode != 0)
            throw new DataUnavailableException(
                $"`{program} {string.Join(' ', arguments)}` failed with exit code {process.ExitCode}:\n{LastLines(errors)}");
    }

    private static Process Start(ProcessStartInfo start)
    {
        try
        {
            return Process.Start(start)!;
        }
        catch (Win32Exception cause)
        {
            throw new DataUnavailableException($"`{start.FileName}` could not be started: {cause.Message}", cause);
        }
    }

    private static string LastLines(string errors)
    {
        var lines = errors.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return lines.Length == 0
            ? "  (it printed no error)"
            : string.Join('\n', lines.TakeLast(ErrorLinesShown).Select(line => $"  {line}"));
    }
}
