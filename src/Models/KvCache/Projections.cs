using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Products with weights that may be stored in bfloat16. Both operands then have that type, sums are the processor's, and what comes out is
/// float32 again, as all that is not a product.
/// </summary>
internal static class Projections
{
    /// <summary>Refuses what weights cannot be stored in.</summary>
    public static void RequireWeightType(torch.ScalarType type, string name)
    {
        if (type is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16))
            throw new ArgumentException($"{name}: {type} is neither Float32 nor BFloat16", name);
    }

    /// <summary>x Wᵀ + b.</summary>
    /// <param name="layer">W [out, in], and b [out] or none.</param>
    /// <param name="input">float32 [..., in].</param>
    /// <returns>float32 [..., out], differentiable.</returns>
    public static Tensor Of(Linear layer, Tensor input)
    {
        if (layer.weight.dtype == torch.ScalarType.Float32)
            return layer.forward(input);
        using var scope = torch.NewDisposeScope();
        var product = Of(layer.weight, input);
        return (layer.bias is { } bias ? product + bias : product).MoveToOuterDisposeScope();
    }

    /// <summary>x Wᵀ.</summary>
    /// <param name="weight">W [out, in].</param>
    /// <param name="input">float32 [..., in].</param>
    /// <returns>float32 [..., out], differentiable.</returns>
    public static Tensor Of(Tensor weight, Tensor input)
    {
        if (weight.dtype == torch.ScalarType.Float32)
            return functional.linear(input, weight);
        using var scope = torch.NewDisposeScope();
        return functional.linear(input.to(weight.dtype), weight).to(torch.ScalarType.Float32).MoveToOuterDisposeScope();
    }
}
