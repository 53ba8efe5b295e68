using AuxCore.Interop;

namespace AuxCore.Models;

/// <summary>A file of tensors is damaged, is not in the format it should have, or lacks what was asked of it.</summary>
public sealed class StateFileException : AuxException
{
    private const int LongestShownKey = 120;

    /// <summary>Creates the exception; its message names the file and the key.</summary>
    /// <param name="operation">What was being done, by its public name, such as <c>SafetensorsFile.Open</c>.</param>
    /// <param name="path">The file.</param>
    /// <param name="key">The tensor or metadata key at fault; <see langword="null"/> where the file as a whole is.</param>
    /// <param name="problem">What is wrong with it.</param>
    /// <param name="innerException">The cause, where another exception was it.</param>
    public StateFileException(string operation, string path, string? key, string problem, Exception? innerException = null)
        : base(operation, key is null ? $"{path}: {problem}" : $"{path}: '{Shown(key)}': {problem}", innerException)
    {
        Path = path;
        Key = key;
    }

    /// <summary>The file, as the caller named it.</summary>
    public string Path { get; }

    /// <summary>The tensor or metadata key at fault; <see langword="null"/> where the file as a whole is.</summary>
    public string? Key { get; }

    // A damaged header can hold a key of megabytes.
    internal static string Shown(string key) => key.Length <= LongestShownKey ? key : $"{key.AsSpan(0, LongestShownKey)}…";
}
