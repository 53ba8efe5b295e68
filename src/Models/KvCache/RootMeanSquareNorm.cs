using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>x / √(mean x² + ε) · weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).</summary>
internal sealed class RootMeanSquareNorm : Module<Tensor, Tensor>
{
    private static readonly long[] Last = [-1];

    private readonly double _epsilon;

    public RootMeanSquareNorm(long width, double epsilon) : base(nameof(RootMeanSquareNorm))
    {
        _epsilon = epsilon;
        weight = Tokens.Parameter(torch.ones(width));
        register_parameter(nameof(weight), weight);
    }

    /// <summary>[width].</summary>
    public Parameter weight { get; } // as modules of TorchSharp spell it

    public override Tensor forward(Tensor input)
    {
        using var scope = torch.NewDisposeScope();
        return (input * (input.square().mean(Last, keepdim: true) + _epsilon).rsqrt() * weight).MoveToOuterDisposeScope();
    }
}
