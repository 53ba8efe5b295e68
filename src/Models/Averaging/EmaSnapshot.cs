using System.Globalization;
using AuxCore.Interop;

namespace AuxCore.Models;

/// <summary>What the header of a file by <see cref="EmaModel.SaveSnapshot"/> says.</summary>
/// <param name="Path">The file.</param>
/// <param name="Step">The optimiser step of its last update.</param>
/// <param name="Origin">The step from which its averages count their time.</param>
/// <param name="Sigmas">The averages' numbers in the file and their widths.</param>
/// <param name="Shapes">Of the averaged parameters, by name; and of the copied buffers, by their key in the file.</param>
internal sealed record EmaSnapshot(
    string Path, long Step, long Origin, IReadOnlyList<(int Average, double Sigma)> Sigmas,
    IReadOnlyDictionary<string, long[]> Shapes)
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
        foreach (var key in file.Metadata.Keys.Where(key => key.StartsWith(SigmaKey, StringComparison.Ordinal)).Order(StringComparer.Ordinal))
        {
            if (!int.TryParse(key[SigmaKey.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var average)
                || !double.TryParse(Value(key), NumberStyles.Float, CultureInfo.InvariantCulture, out var sigma)
                || !PowerFunctionProfile.IsSigma(sigma))
                throw Bad(key, $"'{Value(key)}' is no width of an average");
            sigmas.Add((average, sigma));
        }

        if (sigmas.Count == 0)
            throw Bad(SigmaKey + "0", "is missing from the metadata");
        var shapes = new Dictionary<string, long[]>();
        foreach (var name in file.Names)
        {
            if (name.StartsWith(BufferPrefix, StringComparison.Ordinal))
                shapes.Add(name, file.Shape(name));
        }

        foreach (var (average, _) in sigmas)
        {
            var prefix = $"averages.{average}.";
            foreach (var name in file.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal)))
                shapes.TryAdd(name[prefix.Length..], file.Shape(name));
        }

        foreach (var (average, _) in sigmas)
        {
            foreach (var (name, shape) in shapes.Where(entry => !entry.Key.StartsWith(BufferPrefix, StringComparison.Ordinal)))
            {
                if (!file.Contains($"averages.{average}.{name}"))
                    throw Bad($"averages.{average}.{name}", "is missing");
                if (!file.Shape($"averages.{average}.{name}").AsSpan().SequenceEqual(shape))
                    throw Bad($"averages.{average}.{name}", "has another shape than in the file's first average");
            }
        }

        return new(path, step, origin, sigmas, shapes);

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
        foreach (var (name, shape) in first.Shapes)
        {
            if (!Shapes.TryGetValue(name, out var own))
                throw Bad(name, $"is missing, but part of {first.Path}");
            if (!own.AsSpan().SequenceEqual(shape))
                throw Bad(name, $"has shape {TensorView.Format(own)}, but {TensorView.Format(shape)} in {first.Path}");
        }

        if (Shapes.Keys.FirstOrDefault(name => !first.Shapes.ContainsKey(name)) is { } extra)
            throw Bad(extra, $"is not part of {first.Path}");
    }

    private StateFileException Bad(string key, string problem) => new(nameof(EmaSnapshot), Path, key, problem);
}
