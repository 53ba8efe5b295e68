using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using AuxCore.Bench.Cases;
using AuxCore.Models;

namespace AuxCore.Bench.Output;

/// <summary>Where a run took place.</summary>
/// <param name="Os">Operating system and version.</param>
/// <param name="Cpu">The processor's name.</param>
/// <param name="Cores">Logical processors that this process may use.</param>
/// <param name="RamGb">Memory available to this process, in 10⁹ bytes.</param>
/// <param name="Dotnet">The runtime's version.</param>
/// <param name="VectorBits">The widest vectors that the JIT uses: 512, 256 or 128; 0 for none.</param>
/// <param name="Libtorch">The version of libtorch that TorchSharp loaded.</param>
internal sealed partial record MachineInfo(string Os, string Cpu, int Cores, double RamGb, string Dotnet, int VectorBits, string Libtorch);

/// <summary>The content of <c>results.json</c>.</summary>
/// <param name="Machine">Where.</param>
/// <param name="Commit">Of which source: a short hash, with <c>-dirty</c> behind it if files had changed, or <c>unknown</c>.</param>
/// <param name="Date">When the run began.</param>
/// <param name="Results">What came out, case by case.</param>
internal sealed record BenchResults(MachineInfo Machine, string Commit, DateTimeOffset Date, IReadOnlyList<CaseResult> Results);

/// <summary>
/// Writes and reads <c>results.json</c>: names in snake case, times as quartiles in microseconds, null for what was not measured.
/// </summary>
internal static class ResultsFile
{
    /// <summary>The JSON conventions of every file that the benchmark writes.</summary>
    public static JsonSerializerOptions Json { get; } = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower) },
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, // people read the file, and it is never put into HTML
        WriteIndented = true,
    };

    /// <summary>Writes the file, whole or not at all.</summary>
    public static void Write(string path, BenchResults results) =>
        AtomicFile.WriteAllText(path, JsonSerializer.Serialize(results, Json) + "\n");

    /// <summary>Reads a file that <see cref="Write"/> wrote.</summary>
    /// <exception cref="JsonException">It is something else.</exception>
    public static BenchResults Read(string path) =>
        JsonSerializer.Deserialize<BenchResults>(File.ReadAllText(path), Json) ?? throw new JsonException($"{path} holds no results.");
}
