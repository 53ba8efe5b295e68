using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using TorchSharp;

namespace AuxCore.Bench.Output;

internal sealed partial record MachineInfo
{
    /// <summary>Asks this machine.</summary>
    public static MachineInfo Read() => new(
        RuntimeInformation.OSDescription,
        CpuName(),
        Environment.ProcessorCount,
        Math.Round(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 1e9, 1),
        Environment.Version.ToString(),
        Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : Vector128.IsHardwareAccelerated ? 128 : 0,
        torch.__version__);

    /// <summary>
    /// The commit that this program was built from, as far as the working tree around it tells; <c>unknown</c> outside one.
    /// </summary>
    public static string Commit()
    {
        string? commit = Git("rev-parse --short HEAD");
        if (string.IsNullOrEmpty(commit)) return "unknown";
        return Git("status --porcelain") is "" ? commit : commit + "-dirty";
    }

    /// <summary>The processor and what it offers, on one line.</summary>
    public string Summary() => string.Create(CultureInfo.InvariantCulture,
        $"{Cpu}, {Cores} {(Cores == 1 ? "core" : "cores")}, {VectorBits}-bit vectors, {RamGb:0.#} GB");

    /// <summary>The software, on one line.</summary>
    public string Software() => $"{Os}, .NET {Dotnet}, libtorch {Libtorch}";

    private static string CpuName()
    {
        const string linux = "/proc/cpuinfo";
        string? model = !File.Exists(linux) ? null : File.ReadLines(linux)
            .FirstOrDefault(line => line.StartsWith("model name", StringComparison.Ordinal))?.Split(':', 2)[1].Trim();
        return model
            ?? Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") // Windows
            ?? RuntimeInformation.ProcessArchitecture.ToString();
    }

    private static string? Git(string arguments)
    {
        try
        {
            using Process git = Process.Start(new ProcessStartInfo("git", arguments)
            {
                WorkingDirectory = AppContext.BaseDirectory, RedirectStandardOutput = true, RedirectStandardError = true,
            })!;
            git.ErrorDataReceived += (_, _) => { };
            git.BeginErrorReadLine(); // a full pipe would block git
            string output = git.StandardOutput.ReadToEnd().Trim();
            git.WaitForExit();
            return git.ExitCode == 0 ? output : null;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null; // there is no git here
        }
    }
}
