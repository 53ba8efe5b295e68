using System.Reflection;
using System.Runtime.InteropServices;

namespace AuxCore.Interop;

/// <summary>Where AuxCore's native libraries are, and how they are loaded. Nothing is loaded before it is first asked for.</summary>
internal static class NativeLibraries
{
    /// <summary>A folder: the libraries are taken from there and from nowhere else.</summary>
    public const string FolderVariable = "AUXCORE_NATIVE_DIR";

    private const string RuntimeFolder = "runtimes/linux-x64/native";

    /// <summary>Loads a library by its name without prefix and suffix, such as <c>auxcore</c>.</summary>
    /// <param name="name">The name.</param>
    /// <param name="handle">The library; stays loaded until the process ends.</param>
    /// <param name="reason">What the loader said, which paths were tried, and what to do; empty where the library is loaded.</param>
    public static bool TryLoad(string name, out nint handle, out string reason) =>
        TryLoad(name, Environment.GetEnvironmentVariable(FolderVariable), AppContext.BaseDirectory, out handle, out reason);

    internal static bool TryLoad(string name, string? onlyFolder, string applicationFolder, out nint handle, out string reason)
    {
        (handle, reason) = (0, "");
        if (!IsPlatformServed)
        {
            reason = $"AuxCore's native libraries are for Linux on x64; this is {RuntimeInformation.RuntimeIdentifier}";
            return false;
        }

        var file = $"lib{name}.so";
        var absent = new List<string>();
        foreach (var path in Candidates(file, onlyFolder, applicationFolder))
        {
            if (!File.Exists(path))
            {
                absent.Add(path);
                continue;
            }

            try
            {
                reason = ElfFile.Problem(path);
                if (reason.Length == 0)
                {
                    handle = NativeLibrary.Load(path);
                    return true;
                }
            }
            catch (Exception error)
                when (error is DllNotFoundException or BadImageFormatException or IOException or UnauthorizedAccessException)
            {
                reason = LoaderMessage(error);
            }

            reason = $"{path} does not load: {reason}";
            return false;
        }

        // An application that was published, or that takes the library from a package, has it where the runtime looks.
        if (onlyFolder is null or "" && NativeLibrary.TryLoad(name, Assembly.GetExecutingAssembly(), null, out handle))
            return true;
        reason = NotFound(file, absent, onlyFolder, applicationFolder);
        return false;
    }

    /// <summary>What the build said where it could not make all of the libraries; null where it said nothing.</summary>
    public static string? BuildNote(string applicationFolder)
    {
        var note = Path.Combine(applicationFolder, RuntimeFolder, "not-built.txt");
        return File.Exists(note) ? File.ReadAllText(note).Trim() : null;
    }

    private static bool IsPlatformServed => OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64;

    private static IEnumerable<string> Candidates(string file, string? onlyFolder, string applicationFolder) =>
        onlyFolder is { Length: > 0 }
            ? [Path.Combine(onlyFolder, file)]
            : [Path.Combine(applicationFolder, file), Path.Combine(applicationFolder, RuntimeFolder, file)];

    // The runtime puts general advice first; the loader's own line, which names the file that is at fault, comes after it.
    private static string LoaderMessage(Exception error)
    {
        var line = error.Message.Split('\n').LastOrDefault(line => line.Contains(".so", StringComparison.Ordinal)) ?? error.Message;
        return line.Trim();
    }

    // What to do comes first, where it was looked for last.
    private static string NotFound(string file, List<string> absent, string? onlyFolder, string applicationFolder)
    {
        if (onlyFolder is { Length: > 0 })
            return $"{file} was not found: tried {absent[0]}; {FolderVariable} names the only folder";

        var advice = BuildNote(applicationFolder)
            ?? "reference the package AuxCore.Native.linux-x64, or build from source where cmake, g++ and clang-19 are";
        return $"{file} was not found: {advice}; tried {string.Join(", ", absent)} and where the runtime looks";
    }
}
