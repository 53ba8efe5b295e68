using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;

namespace AuxCore.Bench.Measurement;

/// <summary>
/// By how much the process's resident memory rises while work runs, as Linux counts it. What the allocator holds free is given back first,
/// so that work cannot hide in it; what finalizers give back too, so that it is not missing afterwards.
/// </summary>
internal static partial class PeakMemory
{
    private const string Reset = "/proc/self/clear_refs", Status = "/proc/self/status";

    /// <summary>False where the peak cannot be read and begun anew.</summary>
    public static bool IsAvailable { get; } = OperatingSystem.IsLinux() && File.Exists(Status) && TryReset();

    /// <summary>Bytes at the peak beyond those before; null where <see cref="IsAvailable"/> is false.</summary>
    public static double? Of(Action work)
    {
        if (!IsAvailable || !OperatingSystem.IsLinux())
        {
            work();
            return null;
        }

        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        Trim();
        TryReset();
        double before = Kilobytes("VmRSS:");
        work();
        return Math.Max(0, Kilobytes("VmHWM:") - before) * 1024;
    }

    private static bool TryReset()
    {
        try
        {
            File.WriteAllText(Reset, "5"); // the peak begins anew
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    private static double Kilobytes(string field) => double.Parse(
        File.ReadLines(Status).First(line => line.StartsWith(field, StringComparison.Ordinal))[field.Length..^2].Trim(),
        CultureInfo.InvariantCulture);

    [SupportedOSPlatform("linux")]
    private static void Trim()
    {
        try
        {
            _ = MallocTrim(0);
        }
        catch (EntryPointNotFoundException)
        {
            // Another C library: what it holds free stays.
        }
    }

    [SupportedOSPlatform("linux")]
    [LibraryImport("libc", EntryPoint = "malloc_trim")]
    private static partial int MallocTrim(nuint pad);
}
