using System.Globalization;
using AuxCore.Interop;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>
/// State in safetensors: the tensors <c>model.NAME</c> and <c>auxiliary.BLOCK.NAME</c>, parameters and buffers, and the metadata below.
/// </content>
public sealed partial class LocalTrainer
{
    private const string FormatKey = "auxcore.format";
    private const string Format = "local-trainer/1";
    private const string StepsKey = "auxcore.steps";
    private const string BlocksKey = "auxcore.blocks";
    private const string InputKey = "auxcore.input";

    /// <summary>
    /// Writes model, auxiliary networks and averages to a safetensors file, atomically. With the optimiser's state beside it (<see
    /// cref="AdamW.Save"/>), training that continues from <see cref="Load"/> gives the same bits as training that was never interrupted;
    /// layers that draw random numbers, such as dropout, are as random as before.
    /// </summary>
    /// <param name="path">The file to create or replace.</param>
    /// <exception cref="IOException">The file cannot be written; an existing one is as it was.</exception>
    /// <exception cref="ObjectDisposedException">The trainer was disposed.</exception>
    public void Save(string path)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        SafetensorsFile.Write(path, State().Select(entry => KeyValuePair.Create(entry.Name, entry.Tensor)), new Dictionary<string, string>
        {
            [FormatKey] = Format,
            [StepsKey] = Steps.ToString(CultureInfo.InvariantCulture),
            [BlocksKey] = Blocks,
            [InputKey] = _options.Input.ToString(),
        });
    }

    /// <summary>Reads what <see cref="Save"/> wrote, into the model too.</summary>
    /// <param name="path">A file of a trainer with the same blocks, names, shapes and input of classifiers.</param>
    /// <exception cref="StateFileException">
    /// The file is torn or damaged, of another format, or of another model; the message names the key. Everything is as it was.
    /// </exception>
    /// <exception cref="IOException">The file does not exist or cannot be read.</exception>
    /// <exception cref="ObjectDisposedException">The trainer was disposed.</exception>
    public void Load(string path)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using var file = SafetensorsFile.Open(path);
        Require(file, path, FormatKey, Format);
        Require(file, path, BlocksKey, Blocks);
        Require(file, path, InputKey, _options.Input.ToString());
        if (!long.TryParse(Metadata(file, path, StepsKey), NumberStyles.None, CultureInfo.InvariantCulture, out var steps))
            throw Foreign(path, StepsKey, "is not a count of steps");

        var state = State();
        foreach (var (key, tensor) in state)
        {
            if (!file.Contains(key))
                throw Foreign(path, key, "is missing");
            if (file.DType(key) != tensor.dtype)
                throw Foreign(path, key, $"has dtype {file.DType(key)}, not {tensor.dtype}");
            if (!file.Shape(key).AsSpan().SequenceEqual(tensor.shape))
                throw Foreign(path, key, $"has shape {TensorView.Format(file.Shape(key))}, not {TensorView.Format(tensor.shape)}");
        }

        if (file.Names.Count != state.Count)
            throw Foreign(path, file.Names.Except(state.Select(entry => entry.Name)).First(), "is not part of this trainer");

        // Read everything before anything changes: the disk may fail half way.
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var read = state.ConvertAll(entry => file.Read(entry.Name));
        foreach (var ((_, tensor), value) in state.Zip(read))
            tensor.copy_(value);
        Steps = steps;
    }

    private string Blocks => string.Join(' ', _starts.Zip(_starts.Skip(1), (start, end) => end - start));

    private List<(string Name, Tensor Tensor)> State()
    {
        var state = new List<(string, Tensor)>();
        Add("model.", _model);
        for (var i = 0; i < _auxiliaries.Length; i++)
            Add(string.Create(CultureInfo.InvariantCulture, $"auxiliary.{i}."), _auxiliaries[i]);
        return state;

        void Add(string prefix, Module module)
        {
            state.AddRange(module.named_parameters().Select(entry => (prefix + entry.name, (Tensor)entry.parameter)));
            state.AddRange(module.named_buffers().Select(entry => (prefix + entry.name, entry.buffer)));
        }
    }

    private static string Metadata(SafetensorsReader file, string path, string key) =>
        file.Metadata.TryGetValue(key, out var value)
            ? value
            : throw Foreign(path, key, "is missing from the metadata; LocalTrainer.Save did not write this file");

    private static void Require(SafetensorsReader file, string path, string key, string expected)
    {
        var found = Metadata(file, path, key);
        if (found != expected)
            throw Foreign(path, key, $"is '{found}', but this trainer has '{expected}'");
    }

    private static StateFileException Foreign(string path, string key, string problem) => new(nameof(LocalTrainer), path, key, problem);
}
