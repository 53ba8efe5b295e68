using AuxCore.Bench.Data;
using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>How a <see cref="ResidualNetwork"/> is trained.</summary>
/// <param name="Name">In results.</param>
/// <param name="IsControl">Whether others are compared with it.</param>
/// <param name="Input">What the blocks' classifiers see; null: there are no blocks, the gradient goes through the whole model.</param>
/// <param name="Momentum">Of the averages.</param>
internal sealed record LocalArm(string Name, bool IsControl, AuxiliaryInput? Input, double Momentum = 1)
{
    /// <summary>Backpropagation, local learning with and without a trained copy, and the averages of three momenta.</summary>
    public static IReadOnlyList<LocalArm> All { get; } =
    [
        new("end to end", IsControl: true, null),
        new("local", IsControl: true, AuxiliaryInput.Output),
        new("local + trainable copy", IsControl: true, AuxiliaryInput.TrainableCopy),
        new("MAN, m = 0", IsControl: false, AuxiliaryInput.MomentumAndCopy, 0),
        new("MAN, m = 0.995", IsControl: false, AuxiliaryInput.MomentumAndCopy, 0.995),
        new("MAN, m = 1", IsControl: true, AuxiliaryInput.MomentumAndCopy, 1),
    ];
}

/// <summary>Images and classes as tensors, normalised by mean and deviation of Fashion-MNIST's training pixels.</summary>
internal sealed record ImageTensors(Tensor Images, Tensor Labels) : IDisposable
{
    public static ImageTensors Of(LabelledImages images)
    {
        using var scope = NewDisposeScope();
        Tensor pixels =
            ((tensor(images.Images, ScalarType.Float32) / 255 - 0.286) / 0.353).view(images.Count, 1, images.Rows, images.Columns);
        return new(pixels.DetachFromDisposeScope(), tensor(images.Labels, ScalarType.Int64).DetachFromDisposeScope());
    }

    public long Count => Labels.shape[0];

    public void Dispose()
    {
        Images.Dispose();
        Labels.Dispose();
    }
}

/// <summary>
/// Trains a <see cref="ResidualNetwork"/> by AdamW with a cosine, as one of the arms. Weights of the network, weights of the blocks'
/// classifiers and the order of images depend on the seed alone.
/// </summary>
internal sealed class LocalTraining : IDisposable
{
    public const int BatchSize = 64;
    private const double Rate = 3e-3, WeightDecay = 0.05;
    private const int HeadSeed = 1_000_003; // classifiers must not depend on what an arm drew before them

    private readonly ImageTensors _images;
    private readonly long _steps;
    private readonly Sequential _model;
    private readonly LocalTrainer _trainer;
    private readonly Models.AdamW _optimizer;
    private readonly Generator _order;
    private Tensor _permutation;
    private long _step, _next;

    public LocalTraining(ImageTensors images, LocalArm arm, long steps, int seed, AuxBackend backend = AuxBackend.Auto)
    {
        (_images, _steps) = (images, steps);
        const int Classes = 10;
        manual_seed(seed);
        _model = ResidualNetwork.Create(Classes);
        if (arm.Input is { } input)
        {
            manual_seed(seed + HeadSeed);
            Module<Tensor, Tensor>[] heads =
            [
                .. Enumerable.Range(0, ResidualNetwork.Depth - 1).Select(block => new AuxiliaryClassifier(
                    // Where the classifier sees the next layer's output, it has that layer's channels.
                    ResidualNetwork.ChannelsAfter(input == AuxiliaryInput.Output ? block : block + 1), Classes, width: 16, hidden: 64)),
            ];
            _trainer = new(_model, ResidualNetwork.BlockSizes, heads, new() { Input = input, Momentum = arm.Momentum, Loss = Loss },
                ResidualNetwork.Layer)
            {
                Backend = backend,
            };
        }
        else
        {
            _trainer = new(_model, [_model.children().Count()], [], new() { Loss = Loss });
        }

        _optimizer = new(_trainer.Parameters, lr: Rate, weight_decay: WeightDecay);
        _order = new Generator((ulong)seed);
        _permutation = randperm(images.Count, generator: _order).DetachFromDisposeScope();
    }

    /// <summary>Called before each backward pass.</summary>
    public Action? BeforeBackward { get; set; }

    /// <summary>The network's layers.</summary>
    public IReadOnlyList<Module<Tensor, Tensor>> Layers => [.. _model.children().Cast<Module<Tensor, Tensor>>()];

    /// <summary>One optimiser step.</summary>
    public void Step() => Step((images, labels) => _trainer.Backward(images, labels).Dispose());

    /// <summary>One optimiser step with gradients that come from elsewhere.</summary>
    public void Step(Action<Tensor, Tensor> backward)
    {
        using var scope = NewDisposeScope();
        Tensor batch = NextBatch();
        _optimizer.ParamGroups.First().LearningRate = Rate * 0.5 * (1 + Math.Cos(Math.PI * Math.Min(1, _step / (double)_steps)));
        _step++;
        _optimizer.zero_grad();
        backward(_images.Images.index_select(0, batch), _images.Labels.index_select(0, batch));
        _optimizer.step();
    }

    /// <summary>Gradients added to those that are there; no optimiser step.</summary>
    public void Accumulate(Action<Tensor, Tensor>? backward = null)
    {
        using var scope = NewDisposeScope();
        Tensor batch = NextBatch();
        backward ??= (images, labels) => _trainer.Backward(images, labels).Dispose();
        backward(_images.Images.index_select(0, batch), _images.Labels.index_select(0, batch));
    }

    /// <summary>The percentage of images that the network, without what trained it, labels right.</summary>
    public double Accuracy(ImageTensors test)
    {
        using IDisposable noGrad = no_grad();
        _trainer.Train(false);
        long right = 0;
        for (long at = 0; at < test.Count; at += 500)
        {
            using var scope = NewDisposeScope();
            long count = Math.Min(500, test.Count - at);
            right += _model.forward(test.Images.narrow(0, at, count)).argmax(1).eq(test.Labels.narrow(0, at, count)).sum().item<long>();
        }

        _trainer.Train();
        return 100.0 * right / test.Count;
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        _trainer.Dispose();
        _model.Dispose();
        _permutation.Dispose();
        _order.Dispose();
    }

    private Tensor Loss(Tensor logits, Tensor labels)
    {
        BeforeBackward?.Invoke();
        return functional.cross_entropy(logits, labels);
    }

    private Tensor NextBatch()
    {
        if (_next + BatchSize > _permutation.shape[0])
        {
            _permutation.Dispose();
            _permutation = randperm(_images.Count, generator: _order).DetachFromDisposeScope();
            _next = 0;
        }

        _next += BatchSize;
        return _permutation.narrow(0, _next - BatchSize, BatchSize);
    }
}
