using System.Text.Json;
using System.Text.Json.Serialization;
using AuxCore.Bench.Measurement;
using AuxCore.Models;

namespace AuxCore.Bench.Output;

/// <summary>What an experiment with trained models gave, as <c>models NAME --json</c> writes it.</summary>
/// <param name="System">The short name of the system that was built: <c>ema</c>.</param>
/// <param name="Claim">The sentence that the experiment tests.</param>
/// <param name="Rows">One an arm and metric.</param>
/// <param name="Difference">The comparison that decides the claim.</param>
internal sealed record ModelResults(string System, string Claim, IReadOnlyList<ModelRow> Rows, ModelDifference Difference)
{
    /// <summary>Further comparisons; null, and not in the file, where there are none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ModelDifference>? Others { get; init; }

    /// <summary>Learning curves; null, and not in the file, where there are none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ModelCurve>? Curves { get; init; }

    /// <summary>What else there is to know, a sentence each; null, and not in the file, where there is nothing.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<string>? Notes { get; init; }

    /// <summary>What terminal and report show in place of the rows, where those are too many to be read; not in the file.</summary>
    [JsonIgnore]
    public IReadOnlyList<ModelTable> Tables { get; init; } = [];

    /// <summary>Pictures for the report, as SVG; not in the file.</summary>
    [JsonIgnore]
    public IReadOnlyList<(string Title, string Svg)> Pictures { get; init; } = [];
}

/// <summary>Figures set side by side.</summary>
/// <param name="Title">What they are, with their unit.</param>
/// <param name="Headers">Of the columns; the first is that of the names.</param>
/// <param name="Rows">As many cells each as there are headers.</param>
internal sealed record ModelTable(string Title, IReadOnlyList<string> Headers, IReadOnlyList<IReadOnlyList<string>> Rows);

/// <summary>How one arm learned.</summary>
/// <param name="Arm">What was trained.</param>
/// <param name="Metric">What was measured, with its unit.</param>
/// <param name="Frames">How much had been seen at the end of each part.</param>
/// <param name="Values">A curve a seed, in the same order as in the rows: what was measured in each part.</param>
internal sealed record ModelCurve(
    string Arm, string Metric, IReadOnlyList<double> Frames, IReadOnlyList<IReadOnlyList<double>> Values);

/// <summary>One metric of one arm.</summary>
/// <param name="Arm">What was trained.</param>
/// <param name="IsControl">Whether the arm is what the others are compared with.</param>
/// <param name="Metric">What was measured, with its unit.</param>
/// <param name="Values">One a seed, in the same order in all rows.</param>
internal sealed record ModelRow(string Arm, bool IsControl, string Metric, IReadOnlyList<double> Values);

/// <summary>The mean paired difference arm − control with its 95 % t-interval.</summary>
/// <param name="Arm">The arm.</param>
/// <param name="Control">The arm that it is compared with.</param>
/// <param name="Mean">The mean over the seeds.</param>
/// <param name="Low">The lower end of the interval; null for one seed.</param>
/// <param name="High">The upper end.</param>
internal sealed record ModelDifference(string Arm, string Control, double Mean, double? Low, double? High)
{
    /// <summary>What the verdict is read from; null in a difference that was read from a file.</summary>
    [JsonIgnore]
    public PairedDifference? Paired { get; private init; }

    /// <summary>What was compared; null, and not in the file, for the metric that decides the claim.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Metric { get; init; }

    /// <summary>Whether that metric is better the smaller it is, unlike the one that decides the claim.</summary>
    [JsonIgnore]
    public bool LowerIsBetter { get; init; }

    /// <summary>Compares two rows of one metric, seed by seed.</summary>
    public static ModelDifference Between(ModelRow arm, ModelRow control)
    {
        if (arm.Metric != control.Metric) throw new ArgumentException($"'{arm.Metric}' is not '{control.Metric}'.", nameof(control));
        PairedDifference difference = PairedDifference.Of([.. arm.Values], [.. control.Values]);
        (double? low, double? high) = difference.Seeds > 1 ? (difference.Low, difference.High) : ((double?)null, (double?)null);
        return new(arm.Arm, control.Arm, difference.Mean, low, high) { Paired = difference };
    }
}

/// <summary>Writes and reads the results of one experiment, by the conventions of <see cref="ResultsFile"/>.</summary>
internal static class ModelResultsFile
{
    /// <summary>Writes the file, whole or not at all.</summary>
    public static void Write(string path, ModelResults results) =>
        AtomicFile.WriteAllText(path, JsonSerializer.Serialize(results, ResultsFile.Json) + "\n");

    /// <summary>Reads a file that <see cref="Write"/> wrote.</summary>
    /// <exception cref="JsonException">It is something else.</exception>
    public static ModelResults Read(string path) =>
        JsonSerializer.Deserialize<ModelResults>(File.ReadAllText(path), ResultsFile.Json)
        ?? throw new JsonException($"{path} holds no results.");
}
