using AuxCore.Interop;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>Where the model is cut, and what has to fit.</content>
public sealed partial class LocalTrainer
{
    private static Module<Tensor, Tensor>[] LayersOf(Sequential model)
    {
        Module[] children = [.. model.children()];
        for (var i = 0; i < children.Length; i++)
        {
            if (children[i] is not Module<Tensor, Tensor>)
            {
                throw new ArgumentException(
                    $"model: layer {i}, {children[i].GetName()}, is no module from tensor to tensor", nameof(model));
            }
        }

        return [.. children.Cast<Module<Tensor, Tensor>>()];
    }

    private static int[] StartsOf(IReadOnlyList<int> blockSizes, int layers)
    {
        var starts = new int[blockSizes.Count + 1];
        for (var i = 0; i < blockSizes.Count; i++)
        {
            if (blockSizes[i] < 1)
                throw new ArgumentException($"blockSizes[{i}]: {blockSizes[i]}; a block has at least one layer", nameof(blockSizes));
            starts[i + 1] = starts[i] + blockSizes[i];
        }

        return starts[^1] == layers && layers > 0
            ? starts
            : throw new ArgumentException($"blockSizes: {starts[^1]} layers in sum, but the model has {layers}", nameof(blockSizes));
    }

    private void Check(IReadOnlyList<Module<Tensor, Tensor>> heads, Func<int, Module<Tensor, Tensor>>? layers, Tensor? example)
    {
        if (heads.Count != BlockCount - 1)
            throw new ArgumentException($"heads: {heads.Count} for {BlockCount} blocks, of which all but the last need one", nameof(heads));
        for (var i = 0; i < heads.Count; i++)
        {
            if (heads[i] is null)
                throw new ArgumentException($"heads[{i}]: null", nameof(heads));
            if (heads.Take(i).Contains(heads[i]))
                throw new ArgumentException($"heads[{i}]: the same module as an earlier one; each block has its own", nameof(heads));
        }

        if (layers is null && heads.Count > 0 && (_options.HasCopy || _options.HasMomentum))
            throw new ArgumentException($"layers: null, but {_options.Input} needs copies of layers", nameof(layers));
        if (example is not null)
            RequireLive(example, nameof(example));
        else if (_options.Input == AuxiliaryInput.ScaledMomentum)
            throw new ArgumentException($"example: null, but {_options.Input} has to know the number of channels", nameof(example));
    }

    // How many channels the layer after a block makes of that block's output.
    private Func<int, long> ChannelsOf(Tensor example)
    {
        var modes = _model.modules().Prepend(_model).Select(module => (Module: module, module.training)).ToArray();
        var channels = new long[BlockCount];
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        try
        {
            _model.eval();
            var x = example;
            for (var block = 0; block < BlockCount; block++)
            {
                if (block > 0)
                {
                    var seen = _layers[_starts[block]].forward(x);
                    if (seen.shape.Length < 2)
                    {
                        throw new ArgumentException(
                            $"model: layer {_starts[block]} puts out {TensorView.Format(seen.shape)}, without channels", nameof(example));
                    }

                    channels[block - 1] = seen.shape[MomentumAuxiliaryBlock.ChannelDimension(seen)];
                }

                x = Forward(block, x);
            }
        }
        finally
        {
            foreach (var (module, training) in modes) // parents come before their children, whose modes they would overwrite
                module.train(training);
        }

        return block => channels[block];
    }
}
