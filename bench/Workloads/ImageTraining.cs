using AuxCore.Bench.Data;
using AuxCore.Bench.Measurement;
using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>How the learning rate goes over a training.</summary>
internal enum LearningRate
{
    /// <summary>The same rate from first step to last.</summary>
    Constant,

    /// <summary>Half a cosine from the full rate to 0.</summary>
    Cosine,
}

/// <summary>
/// Trains the small <see cref="VisionTransformer"/> on Fashion-MNIST by AdamW, one step at a time, so that whoever drives it can average
/// and evaluate between steps. Initialisation and order of images depend on the seed alone: arms of one seed differ in nothing else.
/// </summary>
internal sealed class ImageTraining : IDisposable
{
    private const int BatchSize = 64;

    /// <summary>Hyper-parameters of the optimiser.</summary>
    public const double Rate = 1e-3, WeightDecay = 0.05;

    private readonly LearningRate _rate;
    private readonly long _steps;
    private readonly optim.Optimizer _optimizer;
    private readonly Tensor _images, _labels;
    private readonly Generator _order;
    private Tensor _permutation;
    private long _step, _next;

    /// <param name="images">What is learnt.</param>
    /// <param name="rate">How the learning rate goes.</param>
    /// <param name="steps">Over how many steps.</param>
    /// <param name="seed">Of initialisation and order.</param>
    /// <param name="optimizer">Another optimiser than TorchSharp's AdamW, of the same rate and weight decay.</param>
    public ImageTraining(
        LabelledImages images, LearningRate rate, long steps, int seed, Func<VisionTransformer, optim.Optimizer>? optimizer = null)
    {
        manual_seed(seed);
        Model = new VisionTransformer(VisionTransformerSizes.Small);
        _rate = rate;
        _steps = steps;
        _optimizer = optimizer?.Invoke(Model) ?? optim.AdamW(Model.parameters(), Rate, weight_decay: WeightDecay);
        (_images, _labels) = ToTensors(images);
        _order = new Generator((ulong)seed);
        _permutation = randperm(_images.shape[0], generator: _order);
    }

    /// <summary>What is trained.</summary>
    public VisionTransformer Model { get; }

    /// <summary>Nanoseconds of <see cref="ThreadClock"/> that the optimiser took: zeroing gradients and stepping.</summary>
    public long InOptimizer { get; private set; }

    /// <summary>One optimiser step; returns the loss.</summary>
    public float Step()
    {
        using var scope = NewDisposeScope();
        if (_next + BatchSize > _permutation.shape[0])
        {
            _permutation.Dispose();
            _permutation = randperm(_images.shape[0], generator: _order).DetachFromDisposeScope();
            _next = 0;
        }

        Tensor batch = _permutation.narrow(0, _next, BatchSize);
        _next += BatchSize;
        foreach (var group in _optimizer.ParamGroups) group.LearningRate = RateAt(_step);
        _step++;

        long start = ThreadClock.Nanoseconds();
        _optimizer.zero_grad();
        InOptimizer += ThreadClock.Nanoseconds() - start;
        Tensor loss = nn.functional.cross_entropy(Model.forward(_images.index_select(0, batch)), _labels.index_select(0, batch));
        loss.backward();
        start = ThreadClock.Nanoseconds();
        _optimizer.step();
        InOptimizer += ThreadClock.Nanoseconds() - start;
        return loss.item<float>();
    }

    /// <summary>The percentage of images that the model, with the weights that it has now, labels right.</summary>
    public static double Accuracy(VisionTransformer model, LabelledImages images)
    {
        using IDisposable noGrad = no_grad();
        using var scope = NewDisposeScope();
        (Tensor pixels, Tensor labels) = ToTensors(images);
        long right = 0;
        for (long at = 0; at < pixels.shape[0]; at += 500)
        {
            using var batch = NewDisposeScope();
            long count = Math.Min(500, pixels.shape[0] - at);
            right += model.forward(pixels.narrow(0, at, count)).argmax(1).eq(labels.narrow(0, at, count)).sum().item<long>();
        }

        return 100.0 * right / images.Count;
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        Model.Dispose();
        _images.Dispose();
        _labels.Dispose();
        _permutation.Dispose();
        _order.Dispose();
    }

    private double RateAt(long step) => _rate == LearningRate.Constant ? Rate : Rate * 0.5 * (1 + Math.Cos(Math.PI * step / _steps));

    // Mean and deviation of the training pixels, over the whole set.
    private static (Tensor Images, Tensor Labels) ToTensors(LabelledImages images)
    {
        using var scope = NewDisposeScope();
        Tensor pixels =
            ((tensor(images.Images, ScalarType.Float32) / 255 - 0.286) / 0.353).view(images.Count, 1, images.Rows, images.Columns);
        Tensor labels = tensor(images.Labels, ScalarType.Int64);
        return (pixels.DetachFromDisposeScope(), labels.DetachFromDisposeScope());
    }
}
