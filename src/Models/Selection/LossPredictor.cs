using TorchSharp;
using TorchSharp.Utils;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>What a <see cref="LossPredictor"/> learns of the losses of an image's patches.</summary>
public enum LossPrediction
{
    /// <summary>Which of two patches has the greater loss, for all pairs: the paper's choice.</summary>
    Relative,

    /// <summary>The losses themselves, less their mean over the image's hidden patches and divided by their deviation.</summary>
    Absolute,
}

/// <summary>
/// Predicts how badly a <see cref="MaskedAutoencoder"/> will reconstruct each patch: a second decoder over the same tokens, with one number
/// a patch (Hard Patches Mining, Wang et al., CVPR 2023, arXiv 2304.05919).
/// </summary>
/// <remarks>
/// The authors' code predicts a number a pixel and averages them, which is the same linear function of the tokens with more parameters.
/// </remarks>
public sealed class LossPredictor : Module<Tensor, Tensor>
{
    private readonly int _width;

    [ComponentName(Name = "trunk")]
    private readonly AutoencoderTrunk _trunk;

    /// <summary>A predictor for a decoder's tokens.</summary>
    /// <param name="width">Of the tokens.</param>
    /// <param name="depth">Transformer blocks.</param>
    /// <param name="heads">Attention heads; divides the width.</param>
    /// <exception cref="ArgumentException">A size is below 1, or the width is no multiple of the heads.</exception>
    public LossPredictor(int width, int depth = 1, int heads = 2) : base(nameof(LossPredictor))
    {
        Sizes.RequirePositive((nameof(width), width), (nameof(depth), depth), (nameof(heads), heads));
        if (width % heads != 0)
            throw new ArgumentException($"width is {width}: not a multiple of its {heads} heads", nameof(width));
        _width = width;
        _trunk = new AutoencoderTrunk(width, depth, heads, outputs: 1);
        RegisterComponents();
    }

    /// <summary>A number a patch, the greater the harder. Only their order means something where the loss is relative.</summary>
    /// <param name="input">The decoder's tokens [n, patches, width], float32.</param>
    /// <returns>[n, patches].</returns>
    /// <exception cref="ArgumentException">The tensor does not fit.</exception>
    public override Tensor forward(Tensor input)
    {
        Tokens.Require(input, _width, nameof(input));
        if (input.shape.Length != 3)
            throw new ArgumentException($"input: {Batches.Describe(input)} is not Float32[n, patches, {_width}]", nameof(input));
        using var scope = torch.NewDisposeScope();
        return _trunk.forward(input).squeeze(2).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// What the predictor learns from. Relative: with ℓ the losses and ℓ̂ the predictions, the mean over all pairs of one image with
    /// ℓᵢ ≠ ℓⱼ of the binary cross-entropy of σ(ℓ̂ᵢ − ℓ̂ⱼ) against [ℓᵢ > ℓⱼ]; 0 where there is no such pair.
    /// </summary>
    /// <param name="predicted">ℓ̂ [n, k], float32.</param>
    /// <param name="losses">ℓ [n, k], float32. No gradient goes there.</param>
    /// <param name="kind">Relative or absolute.</param>
    /// <returns>A scalar with history.</returns>
    /// <exception cref="ArgumentException">Shapes or dtypes do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The kind is none.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    public static Tensor Loss(Tensor predicted, Tensor losses, LossPrediction kind = LossPrediction.Relative)
    {
        RequireMatrix(predicted, nameof(predicted));
        RequireMatrix(losses, nameof(losses));
        if (!predicted.shape.AsSpan().SequenceEqual(losses.shape))
        {
            throw new ArgumentException(
                $"losses: {Batches.Describe(losses)} does not match predicted's {Batches.Describe(predicted)}", nameof(losses));
        }

        if (!Enum.IsDefined(kind))
            throw new ArgumentOutOfRangeException(nameof(kind), kind, "Not a kind of loss prediction.");
        using var scope = torch.NewDisposeScope();
        var target = losses.detach();
        var loss = kind == LossPrediction.Relative ? Relative(predicted, target) : Absolute(predicted, target);
        return loss.MoveToOuterDisposeScope();
    }

    // −ln σ(d) where the loss is greater, −ln σ(−d) where it is less: softplus of −d times the sign.
    private static Tensor Relative(Tensor predicted, Tensor losses)
    {
        var sign = Differences(losses).sign();
        var pairs = sign.abs();
        return (functional.softplus(-(Differences(predicted) * sign)) * pairs).sum() / pairs.sum().clamp_min(1);
    }

    private static Tensor Absolute(Tensor predicted, Tensor losses)
    {
        var centred = losses - losses.mean([1], keepdim: true);
        var target = centred / (centred.square().mean([1], keepdim: true) + 1e-6).sqrt();
        return (predicted - target).square().mean();
    }

    // [n, i, j]: of i less that of j.
    private static Tensor Differences(Tensor values) => values.unsqueeze(2) - values.unsqueeze(1);

    private static void RequireMatrix(Tensor tensor, string name)
    {
        Batches.Require(tensor, name);
        if (tensor.dtype != torch.ScalarType.Float32 || tensor.shape.Length != 2 || tensor.shape[1] < 1)
            throw new ArgumentException($"{name}: {Batches.Describe(tensor)} is not Float32[n, patches]", name);
    }
}
