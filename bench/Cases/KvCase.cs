using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>What the cases of the KV cache share: tensors that end with the case, and views of them.</summary>
internal abstract class KvCase(string name, string description) : KernelCase
{
    private readonly List<IDisposable> _kept = [];

    public sealed override string Path => "kv-approximation";

    public sealed override string Name => name;

    public sealed override string Description => description;

    public override bool InPlace => false;

    protected AuxBackend Backend { get; private set; }

    public sealed override void Prepare(CaseSettings settings)
    {
        Backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        RequireSupport(Backend);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        Allocate();
    }

    public sealed override void Dispose()
    {
        foreach (IDisposable item in _kept) item.Dispose();
        _kept.Clear();
    }

    /// <summary>Throws where the op does not run on the backend.</summary>
    protected abstract void RequireSupport(AuxBackend backend);

    /// <summary>Makes the data.</summary>
    protected abstract void Allocate();

    protected Tensor Keep(Tensor tensor)
    {
        tensor = tensor.DetachFromDisposeScope();
        _kept.Add(tensor);
        return tensor;
    }

    protected Scalar Keep(Scalar scalar)
    {
        _kept.Add(scalar);
        return scalar;
    }

    protected static TensorView View(Tensor tensor) => tensor.ToTensorView();

    protected static void Require(bool supported, string op, AuxBackend backend, string reason)
    {
        if (!supported) throw new BackendUnavailableException(op, backend, reason);
    }

    /// <summary>A baseline: its temporaries end with each run.</summary>
    protected static CaseArm Arm(string name, Action run) => new(name, () =>
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        run();
    });
}
