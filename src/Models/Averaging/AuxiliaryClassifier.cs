using AuxCore.Interop;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The classifier of a block in local learning: a 3 × 3 convolution with batch norm, pooling to 2 × 2, two linear layers, as in the code of
/// InfoPro and of the Momentum Auxiliary Network (there <c>1c2f</c>).
/// </summary>
public sealed class AuxiliaryClassifier : Module<Tensor, Tensor>
{
    private readonly long _channels;
    private readonly Module<Tensor, Tensor> _layers;

    /// <summary>A classifier with random weights.</summary>
    /// <param name="channels">Of the feature map.</param>
    /// <param name="classes">What is told apart.</param>
    /// <param name="width">Channels of the convolution.</param>
    /// <param name="hidden">Width of the hidden linear layer.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public AuxiliaryClassifier(long channels, long classes, long width = 32, long hidden = 128) : base(nameof(AuxiliaryClassifier))
    {
        Sizes.RequirePositive((nameof(channels), channels), (nameof(classes), classes), (nameof(width), width), (nameof(hidden), hidden));
        _channels = channels;
        _layers = Sequential(
            Conv2d(channels, width, kernel_size: 3, padding: 1, bias: false), BatchNorm2d(width), ReLU(),
            AdaptiveAvgPool2d(2), Flatten(), Linear(4 * width, hidden), ReLU(), Linear(hidden, classes));
        register_module("layers", _layers);
    }

    /// <summary>Feature maps [n, channels, height, width], float32, to logits [n, classes].</summary>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public override Tensor forward(Tensor input)
    {
        ArgumentNullException.ThrowIfNull(input);
        if (input.shape.Length != 4 || input.shape[1] != _channels)
        {
            throw new ArgumentException(
                $"input: {input.dtype}{TensorView.Format(input.shape)} is not a batch of feature maps [n, {_channels}, height, width]",
                nameof(input));
        }

        return _layers.forward(input);
    }
}
