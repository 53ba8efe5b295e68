using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>Losses whose gradients were computed together with their value, as tensors that autograd can go backward from.</summary>
/// <remarks>
/// Nothing of ours runs in the backward pass, where an exception would end the process. The tensor is s + (value − s), with
/// s = Σ input · gradient and the bracket a constant: its value is the loss, and autograd's own rule for dot products hands each input its
/// gradient, times whatever the loss is multiplied by later.
/// </remarks>
internal static class AttachedLoss
{
    /// <param name="value">The loss, a scalar of float64 without history.</param>
    /// <param name="inputs">What the loss depends on, and its gradients: float32 or float64, of the input's shape and contiguous.</param>
    /// <returns>A scalar: float64 where the inputs are, else float32. Without history where no input has any.</returns>
    public static Tensor Create(Tensor value, params ReadOnlySpan<(Tensor Input, Tensor Gradient)> inputs)
    {
        using var scope = torch.NewDisposeScope();
        var type = inputs[0].Input.dtype == torch.ScalarType.Float64 ? torch.ScalarType.Float64 : torch.ScalarType.Float32;
        var result = value.to(type);
        if (torch.is_grad_enabled())
        {
            foreach (var (input, gradient) in inputs)
            {
                if (!input.requires_grad)
                    continue;
                var share = torch.dot(input.flatten(), gradient.to(input.dtype).flatten()).to(type);
                result = result + (share - share.detach());
            }
        }

        return result.MoveToOuterDisposeScope();
    }
}
