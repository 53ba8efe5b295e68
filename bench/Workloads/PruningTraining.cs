using AuxCore.Bench.Data;
using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>Images in 8 bits, of which batches become normalised float32: a large set takes a quarter of the memory.</summary>
internal sealed class ByteImages : IDisposable
{
    private readonly Tensor _images, _labels;

    /// <param name="images">The images.</param>
    /// <param name="moments">Mean and deviation to take out; null: these images' own.</param>
    public ByteImages(LabelledImages images, (double Mean, double Deviation)? moments = null)
    {
        using var scope = NewDisposeScope();
        _images = tensor(images.Images, ScalarType.Byte).view(images.Count, 1, images.Rows, images.Columns).DetachFromDisposeScope();
        _labels = tensor(images.Labels, ScalarType.Int64).DetachFromDisposeScope();
        Moments = moments ?? MomentsOf(images.Images);
    }

    /// <summary>What is taken out.</summary>
    public (double Mean, double Deviation) Moments { get; }

    public long Count => _labels.shape[0];

    /// <summary>Images [n, 1, side, side] and labels [n] of some numbers.</summary>
    public (Tensor Images, Tensor Labels) Batch(Tensor numbers) =>
        (Normalised(_images.index_select(0, numbers)), _labels.index_select(0, numbers));

    /// <summary>The images from a number on.</summary>
    public (Tensor Images, Tensor Labels) Range(long from, long count) =>
        (Normalised(_images.narrow(0, from, count)), _labels.narrow(0, from, count));

    public void Dispose()
    {
        _images.Dispose();
        _labels.Dispose();
    }

    private Tensor Normalised(Tensor bytes) => bytes.to(float32).sub_(Moments.Mean).div_(Moments.Deviation);

    private static (double Mean, double Deviation) MomentsOf(byte[] pixels)
    {
        var (sum, squares) = (0L, 0L);
        foreach (byte pixel in pixels) (sum, squares) = (sum + pixel, squares + (long)pixel * pixel);
        double mean = (double)sum / pixels.Length;
        return (mean, Math.Sqrt((double)squares / pixels.Length - mean * mean));
    }
}

/// <summary>
/// Trains a <see cref="VisionTransformer"/> of 7 × 7 patches by AdamW with a cosine, without pruning. Initialisation and order of images
/// depend on the seed alone.
/// </summary>
internal sealed class PruningTraining : IDisposable
{
    public const int BatchSize = 64, Grid = 7;
    private const double Rate = 2e-3, WeightDecay = 0.05, WarmUp = 0.05;

    private readonly ByteImages _images;
    private readonly long _steps;
    private readonly Models.AdamW _optimizer;
    private readonly Generator _order;
    private Tensor _permutation;
    private long _step, _next;

    public PruningTraining(ByteImages images, int side, long steps, int seed)
    {
        (_images, _steps) = (images, steps);
        manual_seed(seed);
        Model = new VisionTransformer(OptionsFor(side));
        _optimizer = new Models.AdamW(Model.parameters(), Rate, weight_decay: WeightDecay);
        _order = new Generator((ulong)seed);
        _permutation = randperm(images.Count, generator: _order).DetachFromDisposeScope();
    }

    /// <summary>What is trained.</summary>
    public VisionTransformer Model { get; }

    /// <summary>The model for square images of so many pixels along an edge, a multiple of 7.</summary>
    public static VisionTransformerOptions OptionsFor(int side) => new() { Side = side, Patch = side / Grid, MlpRatio = 2 };

    /// <summary>One optimiser step; returns the loss.</summary>
    public float Step()
    {
        using var scope = NewDisposeScope();
        if (_next + BatchSize > _permutation.shape[0])
        {
            _permutation.Dispose();
            _permutation = randperm(_images.Count, generator: _order).DetachFromDisposeScope();
            _next = 0;
        }

        (Tensor images, Tensor labels) = _images.Batch(_permutation.narrow(0, _next, BatchSize));
        _next += BatchSize;
        foreach (var group in _optimizer.ParamGroups) group.LearningRate = RateAt(_step);
        _step++;
        _optimizer.zero_grad();
        Tensor loss = nn.functional.cross_entropy(Model.forward(images), labels);
        loss.backward();
        _optimizer.step();
        return loss.item<float>();
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        Model.Dispose();
        _permutation.Dispose();
        _order.Dispose();
    }

    private double RateAt(long step)
    {
        double warm = Math.Max(1, WarmUp * _steps);
        return Rate * Math.Min(1, (step + 1) / warm) * 0.5 * (1 + Math.Cos(Math.PI * step / _steps));
    }
}
