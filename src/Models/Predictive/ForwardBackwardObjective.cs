using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The loss of forward-backward representations for TorchSharp tensors, with its gradients: <see cref="ForwardBackwardLoss"/> as one node
/// of the graph, in place of n × n matrices and their history.
/// <code>
/// var objective = new ForwardBackwardObjective(new() { Discount = 0.98, Convention = FbConvention.MetaMotivo });
/// objective.Loss(forward, backward, targetForward, targetBackward, done).backward();
/// </code>
/// </summary>
/// <param name="options">Discount, convention, target, form.</param>
/// <remarks>
/// Loss and gradients are computed when the loss is, so going backward costs next to nothing and runs no code that could fail. Not
/// thread-safe.
/// </remarks>
public sealed class ForwardBackwardObjective(FbOptions options) : IDisposable
{
    private const int Parts = 4;

    private Tensor? _terms;

    /// <summary>Discount, convention, target, form.</summary>
    public FbOptions Options { get; } = Checked(options);

    /// <summary>Where the loss runs: Auto takes what fits the tensors' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>The parts of the last loss; on a device, reading them waits for it.</summary>
    /// <exception cref="InvalidOperationException">There was no loss yet.</exception>
    public FbTerms Terms
    {
        get
        {
            if (_terms is null)
                throw new InvalidOperationException("Terms: there was no loss yet");
            using var onHost = _terms.cpu();
            var parts = onHost.data<double>();
            return new(parts[0], parts[1], parts[2], parts[3]);
        }
    }

    /// <summary>The loss of a batch.</summary>
    /// <param name="forward">F [E, n, d]: float32, bfloat16 or, on the CPU, float64.</param>
    /// <param name="backward">B [n, d], of F's dtype.</param>
    /// <param name="targetForward">
    /// The target network's F̄ [E, n, d] at the next states; no gradient goes there. Rows of terminal transitions are not read.
    /// </param>
    /// <param name="targetBackward">The target network's B̄ [n, d]; no gradient goes there.</param>
    /// <param name="done">[n], bool or uint8: whether the transition is terminal.</param>
    /// <returns>A scalar with history: float64 where F is, else float32. NaN where an input is.</returns>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes or devices do not fit, or n is below 2; the message names the tensor.
    /// </exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public Tensor Loss(Tensor forward, Tensor backward, Tensor targetForward, Tensor targetBackward, Tensor done)
    {
        Batches.Require(forward, nameof(forward));
        Batches.Require(backward, nameof(backward));
        Batches.Require(targetForward, nameof(targetForward));
        Batches.Require(targetBackward, nameof(targetBackward));
        Batches.Require(done, nameof(done));
        using var scope = torch.NewDisposeScope();
        var type = forward.dtype == torch.ScalarType.Float64 ? torch.ScalarType.Float64 : torch.ScalarType.Float32;
        var forwardGradient = torch.empty(forward.shape, dtype: type, device: forward.device);
        var backwardGradient = torch.empty(backward.shape, dtype: type, device: forward.device);
        var terms = torch.empty(Parts, dtype: torch.ScalarType.Float64, device: forward.device);
        using (torch.no_grad())
        {
            var tensors = new FbTensors
            {
                Forward = forward.contiguous().ToTensorView(nameof(forward)),
                Backward = backward.contiguous().ToTensorView(nameof(backward)),
                TargetForward = targetForward.contiguous().ToTensorView(nameof(targetForward)),
                TargetBackward = targetBackward.contiguous().ToTensorView(nameof(targetBackward)),
                Done = done.contiguous().ToTensorView(nameof(done)),
                ForwardGradient = forwardGradient.ToTensorView(),
                BackwardGradient = backwardGradient.ToTensorView(),
                Loss = terms.ToTensorView(),
                Workspace = Workspace(forward),
            };
            ForwardBackwardLoss.Run(tensors, Options, Backend);
        }

        _terms?.Dispose();
        _terms = terms.DetachFromDisposeScope();
        return AttachedLoss.Create(terms.sum(), (forward, forwardGradient), (backward, backwardGradient)).MoveToOuterDisposeScope();
    }

    /// <summary>Frees what the objective keeps of the last loss.</summary>
    public void Dispose()
    {
        _terms?.Dispose();
        _terms = null;
    }

    private TensorView Workspace(Tensor forward)
    {
        if (forward.device_type == DeviceType.CPU || forward.shape.Length != 3)
            return default;
        var (heads, count, dimension) = (forward.shape[0], forward.shape[1], forward.shape[2]);
        if (Math.Max(heads, Math.Max(count, dimension)) > int.MaxValue)
            return default; // the op says what is wrong with it
        var bytes = ForwardBackwardLoss.WorkspaceBytes(new((int)heads, (int)count, (int)dimension), Options);
        return torch.empty(bytes, dtype: torch.ScalarType.Byte, device: forward.device).ToTensorView();
    }

    private static FbOptions Checked(FbOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        return options;
    }
}
