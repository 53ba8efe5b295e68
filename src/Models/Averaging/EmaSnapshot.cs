using System.Globalization;
using AuxCore.Interop;

namespace AuxCore.Models;

/// <summary>What the header of a file by <see cref="EmaModel.SaveSnapshot"/> says.</summary>
/// <param name="Path">The file.</param>
/// <param name="Step">The optimiser step of its last update.</param>
/// <param name="Origin">The step from which its averages count their time.</param>
/// <param name="Sigmas">The averages' numbers in the file and their widths.</param>
/// <param name="Averaged">The shapes of the averaged tensors, by the module's names.</param>
/// <param name="Copied">The shapes of the copied buffers, by the module's names.</param>
internal sealed record EmaSnapshot(
    string Path, long Step, long Origin, IReadOnlyList<(int Average, double Sigma)> Sigmas,
    IReadOnlyDictionary<string, long[]> Averaged, IReadOnlyDictionary<string, long[]> Copied)
{
    public const string Format = "ema-snapshot/1";
    public const string OriginKey = "auxcore.origin";
    public const string SigmaKey = "auxcore.sigma.";
    public const string BufferPrefix = "buffers.";

    private const string FormatKey = "auxcore.format", StepKey = "auxcore.step";

    /// <summary>The averages' time: steps since their origin.</summary>
    public long Time => Step - Origin;

    public static EmaSnapshot Read(string path)
    {
        using var file = SafetensorsFile.Open(path);
        if (Value(FormatKey) is var format && format != Format)
            throw Bad(FormatKey, $"is '{format}', not '{Format}'");
        var (step, origin) = (Number(StepKey), Number(OriginKey));
        if (step <= origin)
            throw Bad(StepKey, $"is {step}, not after the origin {origin}");
        var sigmas = new List<(int, double)>();
        var keys = file.Metadata.Keys.Where(key => key.StartsWith(SigmaKey, StringComparison.Ordinal));
        foreach (var key in keys.Order(StringComparer.Ordinal))
        {
            if (!int.TryParse(key[SigmaKey.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var average)
                || !double.TryParse(Value(key), NumberStyles.Float, CultureInfo.InvariantCulture, out var sigma)
                || !PowerFunctionProfile.IsSigma(sigma))
                throw Bad(key, $"'{Value(key)}' is no width of an average");
            sigmas.Add((average, sigma));
        }

        if (sigmas.Count == 0)
            throw Bad(SigmaKey + "0", "is missing from the metadata");
        var averaged = ShapesUnder(AveragePrefix(sigmas[0].Item1));
        foreach (var (average, _) in sigmas.Skip(1))
        {
            var others = ShapesUnder(AveragePrefix(average));
            if (Difference(averaged, others, "in the file's first average") is var (name, problem))
                throw Bad(AveragePrefix(average) + name, problem);
        }

        return new(path, step, origin, sigmas, averaged, ShapesUnder(BufferPrefix));

        Dictionary<string, long[]> ShapesUnder(string prefix) => file.Names
            .Where(name => name.StartsWith(prefix, StringComparison.Ordinal))
            .ToDictionary(name => name[prefix.Length..], file.Shape);

        string Value(string key) => file.Metadata.TryGetValue(key, out var value)
            ? value
            : throw Bad(key, "is missing from the metadata; EmaModel.SaveSnapshot did not write this file");

        long Number(string key) => long.TryParse(Value(key), NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : throw Bad(key, "is not a count of steps");

        StateFileException Bad(string key, string problem) => new(nameof(EmaSnapshot), path, key, problem);
    }

    /// <summary>Refuses a snapshot that is not of the same training as the first.</summary>
    public void RequireSameTraining(EmaSnapshot first)
    {
        if (Origin != first.Origin)
            throw Bad(OriginKey, $"is {Origin}, but {first.Origin} in {first.Path}");
        if (Difference(first.Averaged, Averaged, $"in {first.Path}") is var (name, problem))
            throw Bad(AveragePrefix(Sigmas[0].Average) + name, problem);
        if (Difference(first.Copied, Copied, $"in {first.Path}") is var (buffer, trouble))
            throw Bad(BufferPrefix + buffer, trouble);
    }

    public static string AveragePrefix(int average) => $"averages.{average}.";

    private static (string Name, string Problem)? Difference(
        IReadOnlyDictionary<string, long[]> expected, IReadOnlyDictionary<string, long[]> found, string where)
    {
        foreach (var (name, shape) in expected)
        {
            if (!found.TryGetValue(name, out var other))
                return (name, $"is missing, but {where}");
            if (!other.AsSpan().SequenceEqual(shape))
                return (name, $"has shape {TensorView.Format(other)}, but {TensorView.Format(shape)} {where}");
        }

        return found.Keys.FirstOrDefault(name => !expected.ContainsKey(name)) is { } extra ? (extra, $"is not {where}") : null;
    }

    private StateFileException Bad(string key, string problem) => new(nameof(EmaSnapshot), Path, key, problem);
}
