using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>What the cases of a path on tensors share: random tensors that end with the case, and views of them.</summary>
internal abstract class TensorCase(string path, string name, string description) : KernelCase
{
    private readonly List<IDisposable> _kept = [];

    public sealed override string Path => path;

    public sealed override string Name => name;

    public sealed override string Description => description;

    public override string DType => "f32";

    public override bool InPlace => false;

    protected AuxBackend Backend { get; private set; }

    public sealed override void Prepare(CaseSettings settings)
    {
        Backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        RequireSupport(Backend);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        Allocate(settings.Seed);
    }

    public sealed override void Dispose()
    {
        foreach (IDisposable item in _kept) item.Dispose();
        _kept.Clear();
    }

    /// <summary>Throws where the op does not run on the backend.</summary>
    protected abstract void RequireSupport(AuxBackend backend);

    /// <summary>Makes the data.</summary>
    protected abstract void Allocate(int seed);

    protected Tensor Keep(Tensor tensor)
    {
        tensor = tensor.DetachFromDisposeScope();
        _kept.Add(tensor);
        return tensor;
    }

    protected T Keep<T>(T item) where T : IDisposable
    {
        _kept.Add(item);
        return item;
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
        run();
    });

    /// <summary>A baseline that writes its gradients by hand.</summary>
    protected static CaseArm ArmWithoutGrad(string name, Action run) => Arm(name, () =>
    {
        using var noGrad = torch.no_grad();
        run();
    });

    /// <summary>The largest of errors, or the report that it is too large.</summary>
    protected static double Within(double allowed, string unit, params ReadOnlySpan<double> errors)
    {
        double worst = 0;
        foreach (double error in errors) worst = error <= worst ? worst : error; // a NaN becomes the worst
        return worst <= allowed
            ? worst
            : throw new VerificationException($"{worst:0.###} {unit} from the reference, {allowed} allowed", worst);
    }

    /// <summary>The largest difference, over the largest element of what is expected.</summary>
    protected static double RelativeToLargest(Tensor actual, Tensor expected)
    {
        using var scope = torch.NewDisposeScope();
        return (actual.to_type(torch.float64) - expected.to_type(torch.float64)).abs().max().item<double>()
            / expected.to_type(torch.float64).abs().max().item<double>();
    }
}
