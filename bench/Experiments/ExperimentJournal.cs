using System.Text.Json;
using AuxCore.Kernels;
using AuxCore.Models;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// What an experiment has finished so far, on disk: one that was broken off goes on where it was. Parts of another build of the code, or
/// of other settings, are not taken.
/// </summary>
internal sealed class ExperimentJournal
{
    private readonly string _path, _version;
    private readonly Dictionary<string, double[]> _parts = [];

    /// <param name="name">The experiment's name.</param>
    /// <param name="settings">Everything that its figures depend on, beside the code.</param>
    /// <param name="folder">Where the file is.</param>
    /// <param name="build">What tells builds apart; without, the identities of these assemblies, which change with their code.</param>
    public ExperimentJournal(string name, string settings, string? folder = null, string? build = null)
    {
        _path = Path.Combine(folder ?? Path.Combine("artifacts", "bench", "models"), name + ".partial.json");
        _version = $"{build ?? Build}; {settings}";
        if (!File.Exists(_path)) return;
        try
        {
            Content? content = JsonSerializer.Deserialize<Content>(File.ReadAllText(_path));
            if (content?.Version == _version) _parts = content.Parts;
        }
        catch (JsonException)
        {
            // A file of something else: begin anew.
        }
    }

    private static string Build => string.Join(
        ' ', ((Type[])[typeof(ExperimentJournal), typeof(EmaModel), typeof(EmaUpdate)]).Select(type => type.Module.ModuleVersionId));

    /// <summary>How many parts are there already.</summary>
    public int Count => _parts.Count;

    /// <summary>The figures of a part: what was kept, else what <paramref name="work"/> gives, which is kept from then on.</summary>
    public double[] Part(string key, Func<double[]> work)
    {
        if (_parts.TryGetValue(key, out double[]? kept)) return kept;
        double[] figures = work();
        _parts[key] = figures;
        AtomicFile.WriteAllText(_path, JsonSerializer.Serialize(new Content(_version, _parts)));
        return figures;
    }

    /// <summary>The experiment is done: what is next begins anew.</summary>
    public void Complete()
    {
        _parts.Clear();
        File.Delete(_path);
    }

    private sealed record Content(string Version, Dictionary<string, double[]> Parts);
}
