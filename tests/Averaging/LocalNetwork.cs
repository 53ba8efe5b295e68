using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using AdamW = AuxCore.Models.AdamW;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Averaging;

/// <summary>
/// A small convolutional network of four blocks with a local trainer and an optimiser. Twins are copies: libtorch's random numbers belong
/// to all tests that run at the same time, so the same seed does not give the same weights.
/// </summary>
internal sealed class LocalNetwork : IDisposable
{
    public const int Width = 4, Classes = 3;

    // A stem and a body layer; then one body layer a block; then a body layer, pooling and the output.
    private static readonly int[] Sizes = [2, 1, 1, 4];

    private readonly double _momentum;

    public LocalNetwork(AuxiliaryInput input, double momentum = 0.9)
    {
        _momentum = momentum;
        Model = Sequential(
            Conv2d(1, Width, kernel_size: 3, padding: 1), Layer(), Layer(), Layer(), Layer(), AdaptiveAvgPool2d(1), Flatten(),
            Linear(Width, Classes));
        Module<Tensor, Tensor>[] heads = [.. Sizes.Skip(1).Select(_ => Head())];
        using var example = Images(0);
        Trainer = new(
            Model, Sizes, heads, new() { Input = input, Momentum = momentum }, input == AuxiliaryInput.Output ? null : _ => Layer(),
            input == AuxiliaryInput.ScaledMomentum ? example : null);
        Optimizer = new(Trainer.Parameters, lr: 0.01);
    }

    public Sequential Model { get; }

    public LocalTrainer Trainer { get; }

    public AdamW Optimizer { get; }

    public static Module<Tensor, Tensor> Layer() =>
        Sequential(Conv2d(Width, Width, kernel_size: 3, padding: 1), BatchNorm2d(Width), ReLU());

    public static Module<Tensor, Tensor> Head() => Sequential(AdaptiveAvgPool2d(2), Flatten(), Linear(4 * Width, Classes));

    public static Tensor Images(int seed)
    {
        using var generator = new torch.Generator((ulong)seed + 1);
        return torch.randn([6, 1, 8, 8], generator: generator);
    }

    public static Tensor Labels(int seed)
    {
        using var generator = new torch.Generator((ulong)seed + 100);
        return torch.randint(0, Classes, [6], generator: generator);
    }

    /// <summary>Another one with the same weights, as far as both have them.</summary>
    public LocalNetwork Twin(AuxiliaryInput? input = null)
    {
        var twin = new LocalNetwork(input ?? (Trainer.Auxiliaries[0] switch
        {
            { Copy: not null, Momentum: not null } => AuxiliaryInput.MomentumAndCopy,
            { Copy: not null } => AuxiliaryInput.TrainableCopy,
            { Momentum: not null } => HasScale ? AuxiliaryInput.ScaledMomentum : AuxiliaryInput.Momentum,
            _ => AuxiliaryInput.Output,
        }), _momentum);
        using var noGrad = torch.no_grad();
        twin.Model.load_state_dict(Model.state_dict());
        foreach (var (mine, other) in Trainer.Auxiliaries.Zip(twin.Trainer.Auxiliaries))
        {
            var source = mine.state_dict();
            foreach (var (name, tensor) in other.state_dict())
                tensor.copy_(source[name]);
        }

        return twin;
    }

    public IReadOnlyList<Module<Tensor, Tensor>> Layers(int block) =>
        [.. Model.children().Skip(Sizes.Take(block).Sum()).Take(Sizes[block]).Cast<Module<Tensor, Tensor>>()];

    public Tensor Backward(int seed)
    {
        using var images = Images(seed);
        using var labels = Labels(seed);
        return Trainer.Backward(images, labels);
    }

    public void Step(int seed)
    {
        Optimizer.zero_grad();
        Backward(seed).Dispose();
        Optimizer.step();
    }

    public void ZeroGradients() => Optimizer.zero_grad();

    /// <summary>Of a block and its auxiliary network, as bytes.</summary>
    public byte[] Gradients(int block) =>
        [
            .. Layers(block).SelectMany(layer => layer.parameters())
                .Concat(block < Trainer.Auxiliaries.Count ? Trainer.Auxiliaries[block].parameters() : [])
                .Where(parameter => parameter.requires_grad)
                .SelectMany(parameter => EmaModelTests.Bytes(parameter.grad!)),
        ];

    /// <summary>What is averaged: the first layers of all blocks but the first.</summary>
    public IEnumerable<Tensor> Sources() => Enumerable.Range(1, Sizes.Length - 1).SelectMany(block => Layers(block)[0].parameters());

    public IEnumerable<Tensor> Averages() => Trainer.Auxiliaries.SelectMany(auxiliary => auxiliary.Momentum!.parameters());

    public void Dispose()
    {
        Optimizer.Dispose();
        Trainer.Dispose();
        Model.Dispose();
    }

    private bool HasScale => Trainer.Auxiliaries[0].named_parameters().Any(entry => entry.name == "scale");
}

internal static class Twins
{
    public static Module<Tensor, Tensor> Twin(this Module<Tensor, Tensor> layer)
    {
        var twin = LocalNetwork.Layer();
        twin.load_state_dict(layer.state_dict());
        return twin;
    }
}
