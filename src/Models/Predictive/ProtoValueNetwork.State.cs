using System.Globalization;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>
/// State in safetensors: the tensors <c>encoder.NAME</c>, <c>target.NAME</c>, <c>heads</c> and <c>target_heads</c> (averaged over actions),
/// and the metadata below; the optimiser's moments in a file of <see cref="AdamW"/>'s beside it.
/// </content>
public sealed partial class ProtoValueNetwork
{
    private static readonly StateFile Checks = new(nameof(ProtoValueNetwork), "network");

    private const string FormatKey = "auxcore.format";
    private const string Format = "proto-value-network/1";
    private const string StepsKey = "auxcore.steps";

    /// <summary>Where the optimiser's part of a checkpoint is.</summary>
    /// <param name="path">The checkpoint's path.</param>
    public static string OptimizerPath(string path) => Path.ChangeExtension(path, ".adam.safetensors");

    /// <summary>
    /// Writes weights, target network and the optimiser's state, each file atomically. Training that continues from <see cref="Load"/> with
    /// the same batches gives the same bits as training that was never interrupted.
    /// </summary>
    /// <param name="path">The file to create or replace; <see cref="OptimizerPath"/> is the other.</param>
    /// <exception cref="IOException">A file cannot be written.</exception>
    /// <exception cref="ObjectDisposedException">The network was disposed.</exception>
    public void Save(string path)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _optimizer.Save(OptimizerPath(path));
        SafetensorsFile.Write(path, State().Select(entry => KeyValuePair.Create(entry.Name, entry.Tensor)), new Dictionary<string, string>
        {
            [FormatKey] = Format,
            [StepsKey] = Steps.ToString(CultureInfo.InvariantCulture),
        });
    }

    /// <summary>Reads what <see cref="Save"/> wrote.</summary>
    /// <param name="path">A checkpoint of a network of the same sizes.</param>
    /// <exception cref="StateFileException">
    /// A file is torn or damaged, of another format or other sizes, or the two are not of the same step; the message names the key. The
    /// network is as it was.
    /// </exception>
    /// <exception cref="IOException">A file does not exist or cannot be read; the network is as it was.</exception>
    /// <exception cref="ObjectDisposedException">The network was disposed.</exception>
    public void Load(string path)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using var file = SafetensorsFile.Open(path);
        Checks.Require(file, path, FormatKey, Format);
        if (!long.TryParse(Checks.Metadata(file, path, StepsKey), NumberStyles.None, CultureInfo.InvariantCulture, out var steps))
            throw Checks.Foreign(path, StepsKey, "is not a count of steps");
        var state = State();
        Checks.RequireTensors(file, path, state);

        // Everything is read before anything changes, and the optimiser, which checks its own file, is the first that does.
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var read = state.ConvertAll(entry => file.Read(entry.Name));
        _optimizer.LoadIf(OptimizerPath(path), steps);
        foreach (var ((_, tensor), value) in state.Zip(read))
            tensor.copy_(value);
        Steps = steps;
    }

    private List<(string Name, Tensor Tensor)> State() =>
    [
        .. Encoder.named_parameters().Select(entry => ("encoder." + entry.name, (Tensor)entry.parameter)),
        .. _target.named_parameters().Select(entry => ("target." + entry.name, (Tensor)entry.parameter)),
        ("heads", _objective.Heads),
        ("target_heads", _objective.TargetHeads),
    ];
}
