using System.Globalization;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>
/// State in safetensors: the tensors <c>averages.K.NAME</c> and <c>buffers.NAME</c>, and what the metadata keys below say.
/// </content>
public sealed partial class EmaModel
{
    private static readonly StateFile Checks = new(nameof(EmaModel), "EmaModel", whole: "model");

    private const string FormatKey = "auxcore.format";
    private const string Format = "ema-model/1";
    private const string StepKey = "auxcore.step";
    private const string AveragesKey = "auxcore.averages";
    private const string BuffersKey = "auxcore.buffers";

    /// <summary>
    /// Writes averages, copied buffers and the step count to a safetensors file, atomically. Training that continues from
    /// <see cref="Load(string)"/>, with the same schedules and options, gives the same bits as training that was never interrupted.
    /// </summary>
    /// <param name="path">The file to create or replace.</param>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>.</exception>
    /// <exception cref="IOException">The file cannot be written; an existing one is as it was.</exception>
    public void Save(string path)
    {
        RequireUsable("Save");
        var metadata = new Dictionary<string, string>
        {
            [FormatKey] = Format,
            [StepKey] = Step.ToString(CultureInfo.InvariantCulture),
            [AveragesKey] = AverageCount.ToString(CultureInfo.InvariantCulture),
            [BuffersKey] = Buffers.ToString(),
        };
        for (var k = 0; k < AverageCount; k++)
            metadata[$"auxcore.schedule.{k}"] = _schedules[k % _schedules.Length].ToString()!;
        // For people, as the schedules: both are the program's to choose.
        metadata["auxcore.options"] = string.Create(CultureInfo.InvariantCulture,
            $"every {Every}, start after {StartAfter}, {_options.Storage}, seed {_options.Seed}, levels {_options.Levels}");
        SafetensorsFile.Write(path, NamedState(), metadata);
    }

    /// <summary>
    /// Reads what <see cref="Save(string)"/> wrote: averages, copied buffers and the step count. The model itself is not touched.
    /// </summary>
    /// <param name="path">A file of this format, for a model of the same names and shapes and as many averages.</param>
    /// <exception cref="StateFileException">
    /// The file is torn or damaged, of another format, or of another model; the message names the key. The averages are as they were.
    /// </exception>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>.</exception>
    /// <exception cref="IOException">The file does not exist or cannot be read.</exception>
    public void Load(string path)
    {
        RequireUsable("Load");
        using var file = SafetensorsFile.Open(path);
        Checks.Require(file, path, FormatKey, Format);
        Checks.Require(file, path, AveragesKey, AverageCount.ToString(CultureInfo.InvariantCulture));
        Checks.Require(file, path, BuffersKey, Buffers.ToString());
        if (!long.TryParse(Checks.Metadata(file, path, StepKey), NumberStyles.None, CultureInfo.InvariantCulture, out var step))
            throw Checks.Foreign(path, StepKey, "is not a count of steps");

        var state = NamedState();
        Checks.RequireTensors(file, path, [.. state.Select(entry => (entry.Key, entry.Value))]);

        // Read everything before the first average changes: the disk may fail half way.
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var read = state.Select(entry => file.Read(entry.Key)).ToArray();
        foreach (var ((_, tensor), value) in state.Zip(read))
            tensor.copy_(value);
        Step = step;
    }

    private List<KeyValuePair<string, Tensor>> NamedState()
    {
        var state = new List<KeyValuePair<string, Tensor>>();
        for (var k = 0; k < AverageCount; k++)
            state.AddRange(_averaged.Select(entry => KeyValuePair.Create($"averages.{k}.{entry.Name}", entry.Averages[k])));
        state.AddRange(_copied.Select(buffer => KeyValuePair.Create($"buffers.{buffer.Name}", buffer.Copy)));
        return state;
    }
}
