using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// InfoNCE for TorchSharp tensors, with its gradients: <see cref="InfoNceLoss"/> as one node of the graph, in place of n × n matrices and
/// their history.
/// <code>new InfoNceObjective(InfoNceOptions.JaxGcrl).Loss(stateActions, goals).backward();</code>
/// </summary>
/// <param name="options">Logits, direction, penalty.</param>
/// <remarks>
/// Loss and gradients are computed when the loss is, so going backward costs next to nothing and runs no code that could fail. Not
/// thread-safe.
/// </remarks>
public sealed class InfoNceObjective(InfoNceOptions options) : IDisposable
{
    private const int Parts = 2;

    private Tensor? _terms;

    /// <summary>Logits, direction, penalty.</summary>
    public InfoNceOptions Options { get; } = Checked(options);

    /// <summary>Where the loss runs: Auto takes what fits the tensors' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>The parts of the last loss; on a device, reading them waits for it.</summary>
    /// <exception cref="InvalidOperationException">There was no loss yet.</exception>
    public InfoNceTerms Terms
    {
        get
        {
            if (_terms is null)
                throw new InvalidOperationException("Terms: there was no loss yet");
            using var onHost = _terms.cpu();
            var parts = onHost.data<double>();
            return new(parts[0], parts[1]);
        }
    }

    /// <summary>The loss of a batch.</summary>
    /// <param name="queries">φ [n, d]: float32, bfloat16 or, on the CPU, float64.</param>
    /// <param name="keys">ψ [n, d], of the queries' dtype; ψ_i is the positive of φ_i.</param>
    /// <returns>A scalar with history: float64 where φ is, else float32. NaN where an input is.</returns>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes or devices do not fit, or n is below 2; the message names the tensor.
    /// </exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public Tensor Loss(Tensor queries, Tensor keys)
    {
        Batches.Require(queries, nameof(queries));
        Batches.Require(keys, nameof(keys));
        using var scope = torch.NewDisposeScope();
        var type = queries.dtype == torch.ScalarType.Float64 ? torch.ScalarType.Float64 : torch.ScalarType.Float32;
        var queryGradient = torch.empty(queries.shape, dtype: type, device: queries.device);
        var keyGradient = torch.empty(keys.shape, dtype: type, device: queries.device);
        var terms = torch.empty(Parts, dtype: torch.ScalarType.Float64, device: queries.device);
        using (torch.no_grad())
        {
            var tensors = new InfoNceTensors
            {
                Queries = queries.contiguous().ToTensorView(nameof(queries)),
                Keys = keys.contiguous().ToTensorView(nameof(keys)),
                QueryGradient = queryGradient.ToTensorView(),
                KeyGradient = keyGradient.ToTensorView(),
                Loss = terms.ToTensorView(),
                Workspace = Workspace(queries),
            };
            InfoNceLoss.Run(tensors, Options, Backend);
        }

        _terms?.Dispose();
        _terms = terms.DetachFromDisposeScope();
        return AttachedLoss.Create(terms.sum(), (queries, queryGradient), (keys, keyGradient)).MoveToOuterDisposeScope();
    }

    /// <summary>Frees what the objective keeps of the last loss.</summary>
    public void Dispose()
    {
        _terms?.Dispose();
        _terms = null;
    }

    private static TensorView Workspace(Tensor queries)
    {
        if (queries.device_type == DeviceType.CPU || queries.shape.Length != 2
            || Math.Max(queries.shape[0], queries.shape[1]) > int.MaxValue)
            return default; // not needed, or the op says what is wrong
        var bytes = InfoNceLoss.WorkspaceBytes((int)queries.shape[0], (int)queries.shape[1]);
        return torch.empty(bytes, dtype: torch.ScalarType.Byte, device: queries.device).ToTensorView();
    }

    private static InfoNceOptions Checked(InfoNceOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        return options;
    }
}
