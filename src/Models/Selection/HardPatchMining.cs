using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Hard Patches Mining (Wang et al., CVPR 2023, arXiv 2304.05919): a <see cref="MaskedAutoencoder"/> learns to reconstruct, and to predict
/// where it will fail. Its moving average, the teacher, looks at the whole image, and the patches that it finds hardest are hidden; few of
/// them at first, up to half of the hidden patches in the last epoch, the others at random.
/// <code>
/// using var mining = new HardPatchMining(autoencoder, new() { Epochs = 100 });
/// mining.Loss(images, epoch).backward();  optimizer.step();  mining.UpdateTeacher();
/// </code>
/// </summary>
/// <remarks>
/// <para>The loss is that of reconstruction plus that of prediction (<see cref="Models.LossPredictor.Loss"/>, over the hidden patches of
/// each image), whose targets carry no gradient: nothing is made easier to predict by reconstructing it otherwise. Through its tokens the
/// prediction trains the encoder, as in the authors' code.</para>
/// <para>The teacher is an <see cref="EmaModel"/> that is swapped in for a forward pass, which raises the parameters' version counters:
/// take this loss before others of the same step. Not thread-safe.</para>
/// </remarks>
public sealed class HardPatchMining : IDisposable
{
    private readonly MaskedAutoencoder _autoencoder;
    private readonly HardPatchMiningSettings _settings;
    private readonly HardPatchMiner _miner;
    private bool _disposed;

    /// <summary>Mining for an autoencoder, which becomes its own first teacher.</summary>
    /// <param name="autoencoder">With a loss predictor. It stays the caller's.</param>
    /// <param name="settings">Mask ratio, schedule, weights.</param>
    /// <exception cref="ArgumentException">The autoencoder predicts no losses, or the ratio hides none or all of its patches.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A setting is out of its range.</exception>
    public HardPatchMining(MaskedAutoencoder autoencoder, HardPatchMiningSettings settings)
    {
        ArgumentNullException.ThrowIfNull(autoencoder);
        ArgumentNullException.ThrowIfNull(settings);
        settings.Check(nameof(settings));
        if (autoencoder.LossPredictor is null)
        {
            throw new ArgumentException(
                $"autoencoder: it has no loss predictor; {nameof(MaskedAutoencoderSettings.PredictLosses)} makes one", nameof(autoencoder));
        }

        (_autoencoder, _settings) = (autoencoder, settings);
        _miner = new HardPatchMiner(settings.MaskRatio, settings.Seed);
        try
        {
            _miner.HiddenOf(autoencoder.Settings.Patches);
            Teacher = new EmaModel(autoencoder, settings.Teacher);
        }
        catch
        {
            _miner.Dispose();
            throw;
        }
    }

    /// <summary>The autoencoder's moving average; its <c>Save</c> and <c>Load</c> keep it.</summary>
    public EmaModel Teacher { get; }

    /// <summary>Reconstruction and prediction of the last loss, before the weight.</summary>
    public (double Reconstruction, double Prediction) Terms { get; private set; }

    /// <summary>What the teacher says of each patch of whole images: the greater, the harder.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <returns>[n, L], without history.</returns>
    /// <exception cref="ArgumentException">The tensor does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The tensor, or this object, was disposed.</exception>
    public Tensor PredictByTeacher(Tensor images)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using var noGrad = torch.no_grad();
        using var teacher = Teacher.Swap();
        return _autoencoder.PredictLosses(images);
    }

    /// <summary>The mask of an epoch: ⌊α_t · M⌋ of the patches that the teacher finds hardest, the rest of M at random.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="epoch">t, from 0, below <see cref="HardPatchMiningSettings.Epochs"/>.</param>
    /// <returns>A mask that is the caller's to dispose.</returns>
    /// <exception cref="ArgumentException">The tensor does not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such epoch.</exception>
    /// <exception cref="ObjectDisposedException">The tensor, or this object, was disposed.</exception>
    public PatchMask Mask(Tensor images, int epoch)
    {
        var share = HardPatchMiner.HardShareAt(epoch, _settings.Epochs, _settings.MaxHardShare);
        using var scope = torch.NewDisposeScope();
        return _miner.Mask(PredictByTeacher(images), share);
    }

    /// <summary>Reconstruction and prediction, over a mask of the epoch.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="epoch">t, from 0, below <see cref="HardPatchMiningSettings.Epochs"/>.</param>
    /// <returns>A scalar with history.</returns>
    /// <inheritdoc cref="Mask" path="/exception"/>
    public Tensor Loss(Tensor images, int epoch)
    {
        using var mask = Mask(images, epoch);
        return Loss(images, mask);
    }

    /// <summary>Reconstruction and prediction, over a mask of the caller's.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="mask">Of as many images and patches.</param>
    /// <returns>A scalar with history.</returns>
    /// <exception cref="ArgumentException">The images, or the mask, do not fit.</exception>
    /// <exception cref="ObjectDisposedException">An argument, or this object, was disposed.</exception>
    public Tensor Loss(Tensor images, PatchMask mask)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        using var scope = torch.NewDisposeScope();
        var (losses, predicted) = _autoencoder.PatchLosses(images, mask);
        var reconstruction = losses.mean();
        var prediction = LossPredictor.Loss(predicted!, losses, _settings.Prediction);
        Terms = (reconstruction.item<float>(), prediction.item<float>());
        return (reconstruction + prediction * _settings.PredictionWeight).MoveToOuterDisposeScope();
    }

    /// <summary>Moves the teacher towards the autoencoder; after each optimiser step.</summary>
    /// <exception cref="ObjectDisposedException">This object was disposed.</exception>
    public void UpdateTeacher()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Teacher.Update();
    }

    /// <summary>Frees the teacher and the generator; the autoencoder stays.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Teacher.Dispose();
        _miner.Dispose();
    }
}

/// <summary>How <see cref="HardPatchMining"/> goes.</summary>
public sealed record HardPatchMiningSettings
{
    /// <summary>Epochs of the whole training, over which the share of hard patches grows.</summary>
    public required int Epochs { get; init; }

    /// <summary>M / L: the part of the patches that is hidden, within (0, 1).</summary>
    public double MaskRatio { get; init; } = 0.75;

    /// <summary>α in the last epoch, within [0, 1]: 0 is random masking.</summary>
    public double MaxHardShare { get; init; } = 0.5;

    /// <summary>Decay of the teacher. The authors let it grow from 0.999 to 0.9999 over 100 epochs.</summary>
    public EmaSchedule Teacher { get; init; } = EmaSchedule.Constant(0.999);

    /// <summary>What is learned of the losses.</summary>
    public LossPrediction Prediction { get; init; } = LossPrediction.Relative;

    /// <summary>The weight of the prediction beside the reconstruction, finite and not negative.</summary>
    public double PredictionWeight { get; init; } = 1;

    /// <summary>Of the random patches.</summary>
    public int Seed { get; init; }

    internal void Check(string name)
    {
        Sizes.RequirePositive(($"{name}.{nameof(Epochs)}", Epochs));
        ArgumentNullException.ThrowIfNull(Teacher, $"{name}.{nameof(Teacher)}");
        Require(MaskRatio is > 0 and < 1, nameof(MaskRatio), MaskRatio, "a mask ratio lies within (0, 1)");
        Require(MaxHardShare is >= 0 and <= 1, nameof(MaxHardShare), MaxHardShare, "a share lies within [0, 1]");
        Require(
            PredictionWeight >= 0 && double.IsFinite(PredictionWeight), nameof(PredictionWeight), PredictionWeight,
            "a weight is finite and not negative");
        Require(Enum.IsDefined(Prediction), nameof(Prediction), (double)Prediction, "not a kind of loss prediction");

        void Require(bool holds, string member, double value, string rule)
        {
            if (!holds)
                throw new ArgumentOutOfRangeException(name, value, $"{name}.{member}: {rule}.");
        }
    }
}
