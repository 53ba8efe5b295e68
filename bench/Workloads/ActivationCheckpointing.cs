using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// Backpropagation that keeps only the inputs of segments and computes each segment again when its gradients are due (Chen et al. 2016,
/// arXiv 1604.06174): the gradients of the whole model for less memory and one more forward pass, which is what local learning has to be
/// compared with where memory is short. TorchSharp has none.
/// </summary>
internal static class ActivationCheckpointing
{
    /// <summary>Adds the gradients of the cross-entropy to those of the parameters.</summary>
    /// <remarks>Running statistics of batch norms move twice a step, but for the last segment's, as with PyTorch's checkpoints.</remarks>
    /// <param name="segments">Layers, in order.</param>
    /// <param name="input">A batch; gets no gradient.</param>
    /// <param name="labels">Its classes.</param>
    /// <param name="beforeBackward">Called before each segment's backward pass, when its activations are there.</param>
    public static void Backward(
        IReadOnlyList<IReadOnlyList<Module<Tensor, Tensor>>> segments, Tensor input, Tensor labels, Action? beforeBackward = null)
    {
        using var scope = NewDisposeScope();
        var inputs = new Tensor[segments.Count];
        using (no_grad())
        {
            inputs[0] = input;
            for (int i = 1; i < segments.Count; i++) inputs[i] = Forward(segments[i - 1], inputs[i - 1]);
        }

        Tensor? gradient = null;
        for (int i = segments.Count - 1; i >= 0; i--)
        {
            using var segment = NewDisposeScope();
            Tensor x = inputs[i].detach();
            if (i > 0) x.requires_grad_(true);
            Tensor output = Forward(segments[i], x);
            Tensor target = gradient is null ? functional.cross_entropy(output, labels) : output;
            beforeBackward?.Invoke();
            target.backward(gradient is null ? null : [gradient]);
            gradient?.Dispose();
            if (i == 0) break;
            gradient = x.grad!.DetachFromDisposeScope();
            inputs[i].Dispose();
        }
    }

    private static Tensor Forward(IReadOnlyList<Module<Tensor, Tensor>> layers, Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor x = input;
        for (int i = 0; i < layers.Count; i++)
        {
            Tensor next = layers[i].forward(x);
            if (i > 0) x.Dispose(); // autograd keeps what it needs
            x = next;
        }

        return x.MoveToOuterDisposeScope();
    }
}
