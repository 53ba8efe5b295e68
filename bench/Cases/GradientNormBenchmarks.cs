using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="GradientNorm"/>.</summary>
internal static class GradientNormBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new GradientNormCase("gradient-norm-vit-s", "the norm of a ViT-S/16's gradients", AdamWUpdateBenchmarks.Tensors.VitS),
        () => new GradientNormCase(
            "gradient-norm-many-small-2000x256", "the norm of 2,000 gradients of 256 elements", AdamWUpdateBenchmarks.Tensors.ManySmall),
    ];
}

/// <summary>
/// The global norm of gradients: an <see cref="AdamWGroup"/> against libtorch's norms one by one. TorchSharp's clip_grad_norm_ scales the
/// gradients too, which our optimiser does within its step. Errors relative.
/// </summary>
internal sealed class GradientNormCase(string name, string description, Func<IReadOnlyList<long[]>> shapes) : KernelCase
{
    private const long CacheBytes = 64L << 20;
    private const double Tolerance = 1e-13;

    private readonly List<Replica> _replicas = [];
    private AuxBackend _backend;
    private int _turn;

    public override string Path => "ema";

    public override string Name => name;

    public override string Description => description;

    public override string DType => "f32";

    public override long Bytes => _replicas[0].ElementCount * sizeof(float);

    public override bool InPlace => false;

    public override CaseArm Ours => new("AdamWGroup.Norm", () => Next().Group.Norm(_backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        new("norm per tensor, then norm", () => Next().LibtorchNorm()),
        new("dot per tensor, then sum", () => Next().LibtorchDots()),
    ];

    public override CaseArm? Published => new("clip_grad_norm_", () => Next().Clip());

    public override void Prepare(CaseSettings settings)
    {
        _backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        if (!GradientNorm.IsSupported(_backend, out string reason))
            throw new BackendUnavailableException(nameof(GradientNorm), _backend, reason);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        IReadOnlyList<long[]> list = shapes();
        do _replicas.Add(new(list));
        while (_replicas[0].ElementCount * sizeof(float) * _replicas.Count < CacheBytes);
    }

    public override double Verify()
    {
        AdamWGroup group = _replicas[0].Group;
        double exact = group.Norm(AuxBackend.Reference).SumOfSquares;
        double error = Math.Abs(group.Norm(_backend).SumOfSquares - exact) / exact;
        return error <= Tolerance ? error
            : throw new VerificationException($"{error:0.###e0} from the reference, {Tolerance} allowed", error);
    }

    public override void Dispose()
    {
        foreach (Replica replica in _replicas) replica.Dispose();
        _replicas.Clear();
    }

    private Replica Next() => _replicas[_turn++ % _replicas.Count];

    private sealed class Replica : IDisposable
    {
        private readonly Parameter[] _parameters;
        private readonly Tensor[] _gradients, _moments;

        public Replica(IReadOnlyList<long[]> shapes)
        {
            _parameters = [.. shapes.Select(shape => new Parameter(torch.randn(shape)))];
            _gradients = [.. shapes.Select(shape => torch.randn(shape))];
            _moments = [.. shapes.Concat(shapes).Select(shape => torch.zeros(shape))];
            foreach ((Parameter parameter, Tensor gradient) in _parameters.Zip(_gradients)) parameter.grad = gradient;
            Group = AdamWGroup.FromViews([.. _parameters.Select((parameter, i) => new AdamWTensors(
                parameter.ToTensorView(), _moments[i].ToTensorView(), _moments[i + shapes.Count].ToTensorView()))]);
            Group.SetGradients([.. _gradients.Select(gradient => gradient.ToTensorView())]);
        }

        public AdamWGroup Group { get; }

        public long ElementCount => Group.ElementCount;

        public double LibtorchNorm()
        {
            using var scope = torch.NewDisposeScope();
            using IDisposable noGrad = torch.no_grad();
            return torch.stack(_gradients.Select(gradient => gradient.norm())).norm().item<float>();
        }

        public double LibtorchDots()
        {
            using var scope = torch.NewDisposeScope();
            using IDisposable noGrad = torch.no_grad();
            return Math.Sqrt(torch.stack(_gradients.Select(gradient =>
            {
                Tensor flat = gradient.view(-1);
                return flat.dot(flat);
            })).sum().item<float>());
        }

        public double Clip() => torch.nn.utils.clip_grad_norm_(_parameters, 1e9);

        public void Dispose()
        {
            Group.Dispose();
            foreach (Tensor tensor in _parameters.Concat(_gradients).Concat(_moments)) tensor.Dispose();
        }
    }
}
