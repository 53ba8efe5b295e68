using System.Globalization;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>
/// State in safetensors: the tensors <c>model.NAME</c> and <c>auxiliary.BLOCK.NAME</c>, parameters and buffers, and the metadata below.
/// </content>
public sealed partial class LocalTrainer
{
    private static readonly StateFile Checks = new(nameof(LocalTrainer), "trainer");

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
        Checks.Require(file, path, FormatKey, Format);
        Checks.Require(file, path, BlocksKey, Blocks);
        Checks.Require(file, path, InputKey, _options.Input.ToString());
        if (!long.TryParse(Checks.Metadata(file, path, StepsKey), NumberStyles.None, CultureInfo.InvariantCulture, out var steps))
            throw Checks.Foreign(path, StepsKey, "is not a count of steps");

        var state = State();
        Checks.RequireTensors(file, path, state);

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
}
