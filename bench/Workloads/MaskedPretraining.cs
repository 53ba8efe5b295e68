using AuxCore.Bench.Data;
using AuxCore.Interop;
using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>How a <see cref="MaskedAutoencoder"/> is trained.</summary>
/// <param name="Name">In results.</param>
/// <param name="IsControl">Whether others are compared with it.</param>
/// <param name="Predicts">Whether it has a loss predictor.</param>
/// <param name="HardShare">Of the hidden patches, in the last epoch.</param>
internal sealed record MaskingArm(string Name, bool IsControl, bool Predicts, double HardShare)
{
    /// <summary>Hard Patches Mining, its loss predictor alone, and neither.</summary>
    public static IReadOnlyList<MaskingArm> All { get; } =
    [
        new("HPM", IsControl: false, Predicts: true, HardShare: 0.5),
        new("loss predictor, random masks", IsControl: true, Predicts: true, HardShare: 0),
        new("random masks", IsControl: true, Predicts: false, HardShare: 0),
    ];
}

/// <summary>Images as bytes, which become numbers batch by batch.</summary>
internal sealed record RawImages(Tensor Bytes, Tensor Labels) : IDisposable
{
    // Mean and deviation of the canvases' pixels, over 255.
    private const double Mean = 0.102, Deviation = 0.252;

    public static RawImages Of(LabelledImages images) => new(
        tensor(images.Images, [images.Count, 1, images.Rows, images.Columns], ScalarType.Byte).DetachFromDisposeScope(),
        tensor(images.Labels, ScalarType.Int64).DetachFromDisposeScope());

    public long Count => Labels.shape[0];

    /// <summary>Some of the images, [n, 1, rows, columns], float32.</summary>
    public Tensor At(Tensor indices) => Numbers(Bytes.index_select(0, indices));

    /// <summary>Some of the images that follow each other.</summary>
    public Tensor At(long first, long count) => Numbers(Bytes.narrow(0, first, count));

    public void Dispose()
    {
        Bytes.Dispose();
        Labels.Dispose();
    }

    private static Tensor Numbers(Tensor bytes) => (bytes.to(ScalarType.Float32) / 255 - Mean) / Deviation;
}

/// <summary>
/// Pre-trains an autoencoder by AdamW with a warm-up and a cosine, as one of the arms. Weights, order of images and the random numbers of
/// masks depend on the seed alone; arms without hard patches have the same masks.
/// </summary>
internal sealed class MaskedPretraining : IDisposable
{
    public const int BatchSize = 64, Epochs = 10;
    private const double Rate = 3e-3, WeightDecay = 0.05, WarmUp = 0.05, TeacherDecay = 0.99, MaskRatio = 0.75;

    private readonly RawImages _images;
    private readonly long _steps;
    private readonly Models.AdamW _optimizer;
    private readonly HardPatchMiner _miner;
    private readonly Generator _order;
    private Tensor _permutation;
    private long _step, _next;

    public MaskedPretraining(RawImages images, MaskingArm arm, long steps, int seed, AuxBackend backend)
    {
        (_images, _steps) = (images, steps);
        manual_seed(seed);
        Model = new(Shape with { PredictLosses = arm.Predicts });
        _miner = new(MaskRatio, seed);
        if (arm.Predicts)
        {
            Mining = new(Model, new()
            {
                Epochs = Epochs, MaskRatio = MaskRatio, MaxHardShare = arm.HardShare, Seed = seed,
                Teacher = EmaSchedule.Constant(TeacherDecay),
            });
            Mining.Teacher.Backend = backend;
        }

        _optimizer = new(Model.parameters(), lr: Rate, beta2: 0.95, weight_decay: WeightDecay);
        _order = new Generator((ulong)seed);
        _permutation = randperm(images.Count, generator: _order).DetachFromDisposeScope();
    }

    /// <summary>0.13 million parameters; 64 patches, of which 16 are seen.</summary>
    public static MaskedAutoencoderSettings Shape { get; } =
        new() { Side = ClutteredCanvas.Side, Patch = 7, Width = 48, Depth = 3, Heads = 4, DecoderWidth = 32, DecoderHeads = 2 };

    /// <summary>What is trained.</summary>
    public MaskedAutoencoder Model { get; }

    /// <summary>Null where there is no loss predictor.</summary>
    public HardPatchMining? Mining { get; }

    /// <summary>One optimiser step.</summary>
    public void Step()
    {
        using var scope = NewDisposeScope();
        Tensor batch = _images.At(NextBatch());
        double done = _step / (double)_steps;
        _optimizer.ParamGroups.First().LearningRate =
            Rate * Math.Min(1, (_step + 1) / (WarmUp * _steps)) * 0.5 * (1 + Math.Cos(Math.PI * done));
        _optimizer.zero_grad();
        if (Mining is not null)
        {
            Mining.Loss(batch, (int)(done * Epochs)).backward();
        }
        else
        {
            using PatchMask mask = _miner.Random(BatchSize, Shape.Patches);
            Model.Loss(batch, mask).backward();
        }

        _optimizer.step();
        Mining?.UpdateTeacher();
        _step++;
    }

    /// <summary>Features of whole images, [n, width]: the mean over tokens.</summary>
    public Tensor Features(RawImages images)
    {
        using IDisposable noGrad = no_grad();
        using var scope = NewDisposeScope();
        var features = new List<Tensor>();
        for (long at = 0; at < images.Count; at += 500)
        {
            using var part = NewDisposeScope();
            Tensor tokens = Model.forward(images.At(at, Math.Min(500, images.Count - at)));
            features.Add(tokens.mean([1]).MoveToOuterDisposeScope());
        }

        return cat(features).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        Mining?.Dispose();
        _miner.Dispose();
        _optimizer.Dispose();
        Model.Dispose();
        _permutation.Dispose();
        _order.Dispose();
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
