using System.Text;
using Microsoft.Win32.SafeHandles;

namespace AuxCore.Models;

/// <summary>Files that are replaced as a whole or not at all.</summary>
internal static class AtomicFile
{
    /// <summary>
    /// Writes a file beside <paramref name="path"/>, flushes it to disk, then puts it in the place of <paramref name="path"/>.
    /// </summary>
    /// <remarks>After any failure the new file is removed and an old one is as it was. Links to an old file keep the old content.</remarks>
    /// <exception cref="IOException">The file cannot be written or put in place.</exception>
    /// <exception cref="UnauthorizedAccessException">The folder or the file may not be written.</exception>
    public static void Write(string path, Action<SafeFileHandle> write)
    {
        string target = Path.GetFullPath(path);
        string temporary = $"{target}.{Guid.NewGuid():N}.tmp"; // same folder, so same volume: the move is a rename
        try
        {
            using (var file = File.OpenHandle(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None))
            {
                write(file);
                RandomAccess.FlushToDisk(file);
            }

            File.Move(temporary, target, overwrite: true);
        }
        catch
        {
            TryDelete(temporary);
            throw;
        }
    }

    /// <summary>Writes text as UTF-8; creates the folder if need be.</summary>
    public static void WriteAllText(string path, string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        Write(path, file => RandomAccess.Write(file, Encoding.UTF8.GetBytes(text), fileOffset: 0));
    }

    // The failure that led here is the one to report.
    private static void TryDelete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
        }
    }
}
