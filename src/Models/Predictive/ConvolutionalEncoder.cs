using TorchSharp;
using static TorchSharp.torch.nn;
using Parameter = TorchSharp.Modules.Parameter;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// An encoder of small pictures: a convolution of 3 × 3, ReLU, a linear layer, ReLU. With 16 filters and 128 features it is the network of
/// MinAtar's DQN (Young and Tian 2019, arXiv 1903.03176) without its last layer.
/// </summary>
public sealed class ConvolutionalEncoder : Module<Tensor, Tensor>
{
    private const int Kernel = 3;

    // Parameters and not layers: libtorch's layers draw their first weights from the generator that belongs to the whole process.
    private readonly Parameter _filters, _filterBiases, _weights, _biases;
    private readonly long[] _shape;

    /// <summary>An encoder of float32 on the CPU.</summary>
    /// <param name="channels">C.</param>
    /// <param name="height">H, at least 3.</param>
    /// <param name="width">W, at least 3.</param>
    /// <param name="features">F.</param>
    /// <param name="filters">How many filters the convolution has.</param>
    /// <param name="seed">Seeds the weights, uniform within ±1/√inputs; libtorch's own generator is left alone.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1, or the picture smaller than a filter.</exception>
    public ConvolutionalEncoder(long channels, long height, long width, long features, long filters = 16, int seed = 0)
        : base(nameof(ConvolutionalEncoder))
    {
        Sizes.RequirePositive((nameof(channels), channels), (nameof(features), features), (nameof(filters), filters));
        ArgumentOutOfRangeException.ThrowIfLessThan(height, Kernel);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, Kernel);
        (_shape, Features) = ([channels, height, width], features);
        var (seen, mapped) = (channels * Kernel * Kernel, filters * (height - Kernel + 1) * (width - Kernel + 1));
        using var generator = new torch.Generator((uint)seed, torch.CPU);
        _filters = Uniform("filters", seen, filters, channels, Kernel, Kernel);
        _filterBiases = Uniform("filter_biases", seen, filters);
        _weights = Uniform("weights", mapped, features, mapped);
        _biases = Uniform("biases", mapped, features);

        Parameter Uniform(string name, long inputs, params long[] shape)
        {
            var bound = 1 / Math.Sqrt(inputs);
            using var scope = torch.NewDisposeScope();
            var parameter = new Parameter(torch.rand(shape, generator: generator).mul(2 * bound).sub(bound).DetachFromDisposeScope());
            parameter.DetachFromDisposeScope();
            register_parameter(name, parameter);
            return parameter;
        }
    }

    /// <summary>F.</summary>
    public long Features { get; }

    /// <summary>Encodes a batch.</summary>
    /// <param name="observations">[n, C, H, W], float32.</param>
    /// <returns>[n, F], none of them negative.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public override Tensor forward(Tensor observations)
    {
        Batches.Require(observations, nameof(observations));
        if (observations.dtype != torch.ScalarType.Float32 || observations.shape.Length != 4
            || !observations.shape.AsSpan(1).SequenceEqual(_shape))
        {
            throw new ArgumentException(
                $"observations: {Batches.Describe(observations)} is not Float32[n, {string.Join(", ", _shape)}]", nameof(observations));
        }

        using var scope = torch.NewDisposeScope();
        var mapped = functional.conv2d(observations, _filters, _filterBiases).relu_().flatten(1);
        return functional.linear(mapped, _weights, _biases).relu_().MoveToOuterDisposeScope();
    }
}
