using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A masked autoencoder (He et al., CVPR 2022, arXiv 2111.06377): a vision transformer encodes the visible patches of an image, and a light
/// decoder predicts the pixels of the hidden ones. With <see cref="MaskedAutoencoderSettings.PredictLosses"/>, a second decoder predicts
/// how large the error of each patch will be, for <see cref="HardPatchMining"/>.
/// <code>
/// using var autoencoder = new MaskedAutoencoder(new() { Side = 56, Patch = 7 });
/// using var miner = new HardPatchMiner(maskRatio: 0.75);
/// using var mask = miner.Random(images.shape[0], autoencoder.Settings.Patches);
/// autoencoder.Loss(images, mask).backward();
/// var features = autoencoder.forward(images).mean([1]);
/// </code>
/// </summary>
/// <remarks>
/// There is no class token: features of an image are a mean over its tokens. Positions are fixed and not in the state dict. Parameters
/// follow libtorch's own generator; those of the loss predictor are drawn last, so with and without it one seed gives one autoencoder.
/// </remarks>
public sealed class MaskedAutoencoder : Module<Tensor, Tensor>
{
    [ComponentName(Name = "embedding")]
    private readonly Linear _embedding;

    [ComponentName(Name = "encoder")]
    private readonly AutoencoderTrunk _encoder;

    [ComponentName(Name = "to_decoder")]
    private readonly Linear _toDecoder;

    [ComponentName(Name = "mask_token")]
    private readonly Parameter _maskToken;

    [ComponentName(Name = "decoder")]
    private readonly AutoencoderTrunk _decoder;

    [ComponentName(Name = "loss_predictor")]
    private readonly LossPredictor? _lossPredictor;

    private readonly GridPositions _positions, _decoderPositions;

    /// <summary>An untrained autoencoder.</summary>
    /// <param name="settings">Its sizes.</param>
    /// <exception cref="ArgumentException">Sizes are below 1 or do not go together; the message names them.</exception>
    public MaskedAutoencoder(MaskedAutoencoderSettings settings) : base(nameof(MaskedAutoencoder))
    {
        ArgumentNullException.ThrowIfNull(settings);
        settings.Check(nameof(settings));
        Settings = settings;
        var grid = settings.Side / settings.Patch;
        _embedding = Layers.Linear(settings.PatchPixels, settings.Width);
        _encoder = new AutoencoderTrunk(settings.Width, settings.Depth, settings.Heads, outputs: 0);
        _toDecoder = Layers.Linear(settings.Width, settings.DecoderWidth);
        _maskToken = Tokens.Parameter(torch.empty(1, 1, settings.DecoderWidth).normal_(0, 0.02));
        _decoder = new AutoencoderTrunk(settings.DecoderWidth, settings.DecoderDepth, settings.DecoderHeads, settings.PatchPixels);
        (_positions, _decoderPositions) = (new(grid, settings.Width), new(grid, settings.DecoderWidth));
        if (settings.PredictLosses)
            _lossPredictor = new LossPredictor(settings.DecoderWidth, settings.DecoderDepth, settings.DecoderHeads);
        RegisterComponents();
    }

    /// <summary>Its sizes.</summary>
    public MaskedAutoencoderSettings Settings { get; }

    /// <summary>The second decoder; null where the settings want none.</summary>
    public LossPredictor? LossPredictor => _lossPredictor;

    /// <summary>Encodes whole images.</summary>
    /// <param name="input">Images [n, channels, side, side], float32.</param>
    /// <returns>[n, L, width].</returns>
    /// <exception cref="ArgumentException">The tensor does not fit.</exception>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public override Tensor forward(Tensor input)
    {
        Require(input, nameof(input));
        using var scope = torch.NewDisposeScope();
        return _encoder.forward(Embed(Patches(input))).MoveToOuterDisposeScope();
    }

    /// <summary>Encodes what a mask leaves visible.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="mask">Of as many images and patches.</param>
    /// <returns>[n, visible patches, width], in the order of <see cref="PatchMask.Visible"/>.</returns>
    /// <exception cref="ArgumentException">The images, or the mask, do not fit.</exception>
    /// <exception cref="ObjectDisposedException">The images or the mask were disposed.</exception>
    public Tensor Encode(Tensor images, PatchMask mask)
    {
        Require(images, mask);
        using var scope = torch.NewDisposeScope();
        return EncodeVisible(Patches(images), mask).MoveToOuterDisposeScope();
    }

    /// <summary>Pixels of all patches, from the visible ones.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="mask">Of as many images and patches.</param>
    /// <returns>
    /// [n, L, patch pixels], a patch's channels one after the other. With <see cref="MaskedAutoencoderSettings.NormalisePixels"/> relative
    /// to mean and deviation of the patch. Only hidden patches are trained.
    /// </returns>
    /// <inheritdoc cref="Encode" path="/exception"/>
    public Tensor Reconstruct(Tensor images, PatchMask mask)
    {
        Require(images, mask);
        using var scope = torch.NewDisposeScope();
        return _decoder.forward(DecoderTokens(EncodeVisible(Patches(images), mask), mask)).MoveToOuterDisposeScope();
    }

    /// <summary>The mean squared error of the hidden patches.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="mask">Of as many images and patches.</param>
    /// <returns>A scalar with history.</returns>
    /// <inheritdoc cref="Encode" path="/exception"/>
    public Tensor Loss(Tensor images, PatchMask mask)
    {
        using var scope = torch.NewDisposeScope();
        return PatchLosses(images, mask).Losses.mean().MoveToOuterDisposeScope();
    }

    /// <summary>The mean squared error of each hidden patch, and what the loss predictor says of it.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <param name="mask">Of as many images and patches.</param>
    /// <returns>Both [n, hidden patches], in the order of <see cref="PatchMask.Hidden"/>; no predictions without a predictor.</returns>
    /// <inheritdoc cref="Encode" path="/exception"/>
    public (Tensor Losses, Tensor? Predicted) PatchLosses(Tensor images, PatchMask mask)
    {
        Require(images, mask);
        using var scope = torch.NewDisposeScope();
        var patches = Patches(images);
        var tokens = DecoderTokens(EncodeVisible(patches, mask), mask);
        var errors = mask.KeepHidden(_decoder.forward(tokens) - Targets(patches));
        var predicted = _lossPredictor is null ? null : mask.KeepHidden(_lossPredictor.forward(tokens));
        return (errors.square().mean([2]).MoveToOuterDisposeScope(), predicted?.MoveToOuterDisposeScope());
    }

    /// <summary>What the loss predictor says of each patch when it sees all of them.</summary>
    /// <param name="images">[n, channels, side, side], float32.</param>
    /// <returns>[n, L].</returns>
    /// <exception cref="ArgumentException">The tensor does not fit.</exception>
    /// <exception cref="InvalidOperationException">There is no loss predictor.</exception>
    /// <exception cref="ObjectDisposedException">The tensor was disposed.</exception>
    public Tensor PredictLosses(Tensor images)
    {
        if (_lossPredictor is null)
        {
            throw new InvalidOperationException(
                $"There is no loss predictor; {nameof(MaskedAutoencoderSettings.PredictLosses)} makes one.");
        }

        Require(images, nameof(images));
        using var scope = torch.NewDisposeScope();
        var tokens = _toDecoder.forward(_encoder.forward(Embed(Patches(images))));
        tokens = tokens + _decoderPositions.For(tokens);
        return _lossPredictor.forward(tokens).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _positions.Dispose();
            _decoderPositions.Dispose();
        }

        base.Dispose(disposing);
    }

    private Tensor EncodeVisible(Tensor patches, PatchMask mask) => _encoder.forward(mask.KeepVisible(Embed(patches)));

    private Tensor Embed(Tensor patches) => _embedding.forward(patches) + _positions.For(patches);

    // Visible tokens in their places, the mask token everywhere else.
    private Tensor DecoderTokens(Tensor encoded, PatchMask mask)
    {
        var places = mask.Visible.unsqueeze(2).expand(mask.Images, mask.Visible.shape[1], Settings.DecoderWidth);
        var all = _maskToken.expand(mask.Images, mask.Patches, Settings.DecoderWidth);
        return all.scatter(1, places, _toDecoder.forward(encoded)) + _decoderPositions.For(encoded);
    }

    private Tensor Targets(Tensor patches)
    {
        if (!Settings.NormalisePixels)
            return patches;
        var centred = patches - patches.mean([2], keepdim: true);
        return centred / (centred.square().mean([2], keepdim: true) + 1e-6).sqrt();
    }

    // [n, channels, side, side] to [n, L, patch pixels].
    private Tensor Patches(Tensor images)
    {
        var (n, grid) = (images.shape[0], Settings.Side / Settings.Patch);
        return images.reshape(n, Settings.Channels, grid, Settings.Patch, grid, Settings.Patch).permute(0, 2, 4, 1, 3, 5)
            .reshape(n, Settings.Patches, Settings.PatchPixels);
    }

    private void Require(Tensor images, PatchMask mask)
    {
        Require(images, nameof(images));
        ArgumentNullException.ThrowIfNull(mask);
        mask.Require(images, Settings.Patches, nameof(mask));
    }

    private void Require(Tensor images, string name)
    {
        Batches.Require(images, name);
        var shape = images.shape;
        var fits = images.dtype == torch.ScalarType.Float32 && shape.Length == 4 && shape[0] > 0 && shape[1] == Settings.Channels
            && shape[2] == Settings.Side && shape[3] == Settings.Side;
        if (!fits)
        {
            throw new ArgumentException(
                $"{name}: {Batches.Describe(images)} is not Float32[n, {Settings.Channels}, {Settings.Side}, {Settings.Side}]", name);
        }
    }
}
