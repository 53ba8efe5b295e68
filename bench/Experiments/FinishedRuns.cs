using System.Text.Json;
using AuxCore.Bench.Output;
using AuxCore.Models;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// What an experiment has computed so far, in a file, so that one that was interrupted goes on where it stopped. The file is taken only if
/// it says that it is of the same experiment with the same settings.
/// </summary>
internal sealed class FinishedRuns
{
    private readonly string? _path;
    private readonly Content _content;

    /// <param name="path">The file; null keeps nothing.</param>
    /// <param name="of">The experiment and whatever its values depend on.</param>
    public FinishedRuns(string? path, string of)
    {
        _path = path;
        _content = path is not null && TryRead(path) is { } found && found.Of == of ? found : new(of, []);
    }

    /// <summary>Where experiments keep what they have not finished.</summary>
    public static string PathOf(string experiment) => Path.Combine("artifacts", "bench", "unfinished", $"{experiment}.json");

    /// <summary>How many runs are there.</summary>
    public int Count => _content.Runs.Count;

    /// <summary>The values of a run: from the file, or computed now and written.</summary>
    public double[] Get(string run, Func<double[]> compute)
    {
        if (_content.Runs.TryGetValue(run, out double[]? known)) return known;
        double[] values = compute();
        _content.Runs.Add(run, values);
        if (_path is not null)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(_path)!);
            AtomicFile.WriteAllText(_path, JsonSerializer.Serialize(_content, ResultsFile.Json));
        }

        return values;
    }

    /// <summary>The experiment is through: the next one begins from nothing.</summary>
    public void Forget()
    {
        if (_path is not null) File.Delete(_path);
    }

    private static Content? TryRead(string path)
    {
        try
        {
            return JsonSerializer.Deserialize<Content>(File.ReadAllText(path), ResultsFile.Json) is { Of: not null, Runs: not null } found
                ? found
                : null;
        }
        catch (Exception error) when (error is IOException or JsonException)
        {
            return null; // not there, or not ours
        }
    }

    private sealed record Content(string Of, Dictionary<string, double[]> Runs);
}
