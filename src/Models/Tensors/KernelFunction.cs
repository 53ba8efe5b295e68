using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>A node of the graph of autograd whose backward is a kernel of AuxCore. It has no second derivative.</summary>
/// <remarks>
/// libtorch calls the backward from native code, which an exception would end together with the process. So everything is checked in
/// forward; what fails nevertheless gives gradients of NaN, and the exception comes from <see cref="AuxRuntime.ThrowIfFailed"/>.
/// </remarks>
internal sealed class KernelFunction : torch.autograd.SingleTensorFunction<KernelFunction>
{
    private const string CallKey = "call";

    // TorchSharp hands the gradient's handle to native code and keeps no reference to its object, which a finaliser could free just then.
    // The last one is through with when the next is made.
    [ThreadStatic]
    private static Tensor? Returned;

    public override string Name => nameof(KernelFunction);

    /// <summary>Gives an output its history.</summary>
    /// <param name="input">What the output was computed from.</param>
    /// <param name="output">The output, without history; it is consumed.</param>
    /// <param name="gradient">
    /// From the saved tensors and the contiguous gradient of the output to that of the input. It must not refer to other tensors.
    /// </param>
    /// <param name="saved">Tensors that live as long as the graph does, whatever becomes of these objects.</param>
    public static Tensor Attach(Tensor input, Tensor output, Func<IReadOnlyList<Tensor>, Tensor, Tensor> gradient, params Tensor[] saved)
    {
        if (!torch.is_grad_enabled() || !input.requires_grad)
            return output;
        using var scope = torch.NewDisposeScope();
        var attached = apply(input, new Call(output, gradient, saved, input.shape, input.dtype, input.device));
        output.Dispose();
        return attached.MoveToOuterDisposeScope();
    }

    public override Tensor forward(torch.autograd.AutogradContext ctx, params object[] vars)
    {
        var call = (Call)vars[1];
        ctx.set_materialize_grads(false);
        ctx.save_for_backward([.. call.Saved]);
        ctx.save_data(CallKey, call with { Output = null, Saved = [] });
        return call.Output!;
    }

    public override List<Tensor> backward(torch.autograd.AutogradContext ctx, Tensor grad_output)
    {
        if (grad_output.IsInvalid)
            return [null!, null!];
        var call = (Call)ctx.get_data(CallKey);
        Tensor gradient;
        using (torch.NewDisposeScope())
        {
            try
            {
                gradient = call.Gradient(ctx.get_saved_variables(), grad_output.contiguous()).MoveToOuterDisposeScope();
            }
            catch (Exception error)
            {
                AuxRuntime.Fail(error);
                gradient = torch.full(call.Shape, double.NaN, dtype: call.DType, device: call.Device).MoveToOuterDisposeScope();
            }
        }

        grad_output.Dispose();
        Returned?.Dispose();
        Returned = gradient;
        return [gradient, null!];
    }

    private sealed record Call(
        Tensor? Output, Func<IReadOnlyList<Tensor>, Tensor, Tensor> Gradient, Tensor[] Saved, long[] Shape, torch.ScalarType DType,
        torch.Device Device);
}
