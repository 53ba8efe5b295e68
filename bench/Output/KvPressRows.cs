using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using AuxCore.Models;

namespace AuxCore.Bench.Output;

/// <summary>A question and what came out, in the columns of NVIDIA's kvpress benchmark.</summary>
/// <param name="Context">What was read before.</param>
/// <param name="Question">The question.</param>
/// <param name="Answer">The right answer.</param>
/// <param name="Predicted">What was answered.</param>
/// <param name="MaxNewTokens">How long an answer may be.</param>
/// <param name="Task">What questions of one kind are called.</param>
internal sealed record KvPressRow(string Context, string Question, string Answer, string Predicted, int MaxNewTokens, string Task);

/// <summary>
/// Writes results as kvpress (NVIDIA/kvpress, evaluation) does: a folder <c>dataset__dir__model__press__ratio</c> with
/// <c>predictions.csv</c>, <c>metrics.json</c> and <c>config.yaml</c>, so that what reads its results reads ours.
/// </summary>
internal static class KvPressRows
{
    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>Writes one folder.</summary>
    /// <param name="root">Where folders are made.</param>
    /// <param name="dataset">What was asked.</param>
    /// <param name="directory">Which part of it.</param>
    /// <param name="model">What answered.</param>
    /// <param name="press">How its cache came about.</param>
    /// <param name="ratio">The share of the cache's bytes that is saved.</param>
    /// <param name="rows">What was asked and answered.</param>
    /// <returns>The folder.</returns>
    public static string Write(
        string root, string dataset, string directory, string model, string press, double ratio, IReadOnlyList<KvPressRow> rows)
    {
        string name = string.Create(
            CultureInfo.InvariantCulture, $"{Part(dataset)}__{Part(directory)}__{Part(model)}__{Part(press)}__{ratio:0.00}");
        string folder = Path.Combine(root, name);
        Directory.CreateDirectory(folder);
        var csv = new StringBuilder("context,question,answer_prefix,answer,max_new_tokens,task,predicted_answer,compression_ratio\n");
        foreach (KvPressRow row in rows)
        {
            csv.Append(CultureInfo.InvariantCulture, $"{Cell(row.Context)},{Cell(row.Question)},,{Cell(row.Answer)},");
            csv.Append(CultureInfo.InvariantCulture, $"{row.MaxNewTokens},{Cell(row.Task)},{Cell(row.Predicted)},{ratio:0.####}\n");
        }

        AtomicFile.WriteAllText(Path.Combine(folder, "predictions.csv"), csv.ToString());
        AtomicFile.WriteAllText(Path.Combine(folder, "metrics.json"), JsonSerializer.Serialize(Metrics(rows), Json) + "\n");
        AtomicFile.WriteAllText(Path.Combine(folder, "config.yaml"), string.Create(CultureInfo.InvariantCulture,
            $"dataset: {dataset}\ndata_dir: {directory}\nmodel: {model}\npress_name: {press}\ncompression_ratio: {ratio:0.####}\n"));
        return folder;
    }

    /// <summary>Exact matches in percent, task by task.</summary>
    private static Dictionary<string, Dictionary<string, double>> Metrics(IReadOnlyList<KvPressRow> rows) =>
        rows.GroupBy(row => row.Task).ToDictionary(
            task => task.Key,
            task => new Dictionary<string, double> { ["string_match"] = 100 * task.Average(row => row.Predicted == row.Answer ? 1.0 : 0) });

    // RFC 4180.
    private static string Cell(string text) =>
        text.AsSpan().ContainsAny("\",\r\n") ? $"\"{text.Replace("\"", "\"\"", StringComparison.Ordinal)}\"" : text;

    private static string Part(string name)
    {
        var part = new StringBuilder();
        foreach (char letter in name.ToLowerInvariant())
        {
            if (char.IsAsciiLetterOrDigit(letter) || letter == '.') part.Append(letter);
            else if (part.Length > 0 && part[^1] != '-') part.Append('-');
        }

        return part.ToString().TrimEnd('-');
    }
}
