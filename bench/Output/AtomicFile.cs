namespace AuxCore.Bench.Output;

/// <summary>Writes whole files or nothing: a run that is stopped leaves the previous file.</summary>
internal static class AtomicFile
{
    /// <summary>Creates the folder if need be, writes beside the target, then takes its place.</summary>
    public static void WriteAllText(string path, string text)
    {
        string full = Path.GetFullPath(path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        string temporary = $"{full}.{Environment.ProcessId}.tmp";
        try
        {
            File.WriteAllText(temporary, text);
            File.Move(temporary, full, overwrite: true);
        }
        finally
        {
            File.Delete(temporary);
        }
    }
}
