using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using TorchSharp.Modules;
using AdamW = AuxCore.Models.AdamW;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="AdamWUpdate"/>, by the parameters that they step, with and without averages in the same pass.</summary>
internal static class AdamWUpdateBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new AdamWCase("adamw-vit-s", "AdamW on a ViT-S/16: 152 tensors, 22 million elements", Tensors.VitS, []),
        () => new AdamWCase("adamw-many-small-2000x256", "AdamW on 2,000 tensors of 256 elements", Tensors.ManySmall, []),
        () => new AdamWCase("adamw-ema-vit-s", "AdamW on a ViT-S/16 with one average", Tensors.VitS, [0.999]),
        () => new AdamWCase("adamw-ema-many-small-2000x256", "AdamW on 2,000 tensors of 256 with one average", Tensors.ManySmall, [0.999]),
        () => new AdamWCase(
            "adamw-three-emas-vit-s", "AdamW on a ViT-S/16 with averages of three widths", Tensors.VitS, [0.99, 0.999, 0.9999]),
    ];

    /// <summary>A large model and many small tensors: what the tour shows.</summary>
    public static IReadOnlyList<Func<KernelCase>> Shown => [All[0], All[3]];

    /// <summary>Lists of tensors that cases share.</summary>
    internal static class Tensors
    {
        public static IReadOnlyList<long[]> ManySmall() => [.. Enumerable.Repeat<long[]>([256], 2000)];

        public static IReadOnlyList<long[]> VitS()
        {
            using var model = new VisionTransformer(VisionTransformerSizes.VitS16);
            return [.. model.parameters().Select(parameter => parameter.shape)];
        }
    }
}

/// <summary>
/// One step of <see cref="AdamW"/> against TorchSharp's own, and against loops over libtorch's in-place operations; averages are carried by
/// ours and follow in a loop of <c>lerp_</c> there. Weight decay is on. Errors in ulps of the parameter or the learning rate, whichever is
/// greater.
/// </summary>
internal sealed class AdamWCase(string name, string description, Func<IReadOnlyList<long[]>> shapes, double[] decays) : KernelCase
{
    public const double Rate = 1e-5, WeightDecay = 0.05;

    private const long CacheBytes = 64L << 20; // twice the last-level cache of the machines measured; all copies together exceed it
    private const double ToleranceUlps = 8;

    private readonly List<AdamWReplica> _replicas = [];
    private int _turn;

    public override string Path => "ema";

    public override string Name => name;

    public override string Description => description;

    public override string DType => "f32";

    // Gradient read; parameter, moments and averages read and written.
    public override long Bytes => _replicas[0].ElementCount * sizeof(float) * (7 + 2L * decays.Length);

    public override bool InPlace => true;

    public override CaseArm Ours => new("AdamW.step", () => Next().Optimizer.step());

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        new($"lerp_, addcmul_, sqrt, addcdiv_ per tensor{Averaged}", () => Next().Loop(fresh: true)),
        new($"the same, sqrt_ in a buffer{Averaged}", () => Next().Loop(fresh: false)),
    ];

    public override CaseArm? Published => new($"TorchSharp's AdamW{Averaged}", () => Next().TorchSharpStep());

    public override void Prepare(CaseSettings settings)
    {
        var backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        if (!AdamWUpdate.IsSupported(backend, out string reason))
            throw new BackendUnavailableException(nameof(AdamWUpdate), backend, reason);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        IReadOnlyList<long[]> list = shapes();
        do _replicas.Add(new(list, decays, backend));
        while (_replicas[0].ElementCount * sizeof(float) * (4 + decays.Length) * _replicas.Count < CacheBytes);
        foreach (AdamWReplica replica in _replicas) replica.Optimizer.step(); // looks where the tensors are, once
    }

    public override double Verify()
    {
        AdamWReplica replica = _replicas[0];
        using AdamWReplica fresh = new(replica, replica.Optimizer.Backend), expected = new(replica, AuxBackend.Reference);
        for (int step = 0; step < 3; step++)
        {
            fresh.Optimizer.step();
            expected.Optimizer.step();
        }

        double worst = fresh.MaxUlps(expected);
        return worst <= ToleranceUlps
            ? worst
            : throw new VerificationException($"{worst:0.###} ulps from the reference, {ToleranceUlps} allowed", worst);
    }

    public override void Dispose()
    {
        foreach (AdamWReplica replica in _replicas) replica.Dispose();
        _replicas.Clear();
    }

    private string Averaged => decays.Length == 0 ? "" : ", then lerp_";

    private AdamWReplica Next() => _replicas[_turn++ % _replicas.Count];
}

/// <summary>Parameters with gradients, and three optimisers that take turns on them, each with moments of its own.</summary>
internal sealed class AdamWReplica : IDisposable
{
    private const double Beta1 = 0.9, Beta2 = 0.999, Epsilon = 1e-8;

    private readonly BareParameters _model;
    private readonly Parameter[] _parameters;
    private readonly Tensor[] _gradients;
    private readonly Tensor[][] _averages;
    private readonly double[] _decays;
    private readonly EmaModel? _ema;
    private readonly torch.optim.Optimizer _theirs;
    private readonly Tensor[] _first, _second, _buffers;
    private readonly Tensor _firstWeight;
    private readonly Tensor[] _averageWeights;
    private readonly Scalar _keep, _secondDecay, _secondWeight;
    private long _loopSteps;

    public AdamWReplica(IReadOnlyList<long[]> shapes, double[] decays, AuxBackend backend)
    {
        _model = new BareParameters(shapes);
        _parameters = [.. _model.parameters()];
        _gradients = [.. _parameters.Select(parameter => torch.randn(parameter.shape))];
        foreach ((Parameter parameter, Tensor gradient) in _parameters.Zip(_gradients)) parameter.grad = gradient;
        _decays = decays;
        _ema = decays.Length == 0 ? null : new EmaModel(_model, [.. decays.Select(EmaSchedule.Constant)]);
        _averages = [.. Enumerable.Range(0, decays.Length).Select(k => _ema!.StateDict(k).Values.ToArray())];
        Optimizer = new AdamW(_model.parameters(), AdamWCase.Rate, Beta1, Beta2, Epsilon, AdamWCase.WeightDecay)
        {
            Averages = _ema, Backend = backend,
        };
        _theirs = torch.optim.AdamW(_model.parameters(), AdamWCase.Rate, Beta1, Beta2, Epsilon, AdamWCase.WeightDecay);
        using IDisposable noGrad = torch.no_grad();
        (_first, _second, _buffers) = (Zeros(), Zeros(), Zeros());
        (_firstWeight, _averageWeights) = (torch.tensor((float)(1 - Beta1)), [.. decays.Select(decay => torch.tensor((float)(1 - decay)))]);
        (_keep, _secondDecay, _secondWeight) =
            ((1 - AdamWCase.Rate * AdamWCase.WeightDecay).ToScalar(), Beta2.ToScalar(), (1 - Beta2).ToScalar());

        Tensor[] Zeros() => [.. shapes.Select(shape => torch.zeros(shape))];
    }

    /// <summary>The same values, for our optimiser on another backend.</summary>
    public AdamWReplica(AdamWReplica other, AuxBackend backend)
        : this([.. other._parameters.Select(parameter => parameter.shape)], other._decays, backend)
    {
        using IDisposable noGrad = torch.no_grad();
        foreach ((Tensor copy, Tensor value) in State().Zip(other.State())) copy.copy_(value);
    }

    public AdamW Optimizer { get; }

    public long ElementCount => _parameters.Sum(parameter => parameter.numel());

    public void TorchSharpStep()
    {
        _theirs.step();
        Average();
    }

    /// <summary>
    /// AdamW in the fewest operations that we know, the bias corrections folded into ε and the rate:
    /// w ← (1 − αλ) · w − α′ · m / (√v + ε′).
    /// </summary>
    public void Loop(bool fresh)
    {
        _loopSteps++;
        double root = Math.Sqrt(1 - Math.Pow(Beta2, _loopSteps));
        using Scalar epsilon = (Epsilon * root).ToScalar();
        using Scalar step = (-AdamWCase.Rate * root / (1 - Math.Pow(Beta1, _loopSteps))).ToScalar();
        using (torch.no_grad())
        {
            for (int i = 0; i < _parameters.Length; i++)
            {
                _first[i].lerp_(_gradients[i], _firstWeight);
                _second[i].mul_(_secondDecay).addcmul_(_gradients[i], _gradients[i], _secondWeight);
                _parameters[i].mul_(_keep);
                if (fresh)
                {
                    using Tensor denominator = _second[i].sqrt();
                    _parameters[i].addcdiv_(_first[i], denominator.add_(epsilon), step);
                }
                else
                {
                    _parameters[i].addcdiv_(_first[i], _buffers[i].copy_(_second[i]).sqrt_().add_(epsilon), step);
                }
            }
        }

        Average();
    }

    public double MaxUlps(AdamWReplica expected)
    {
        using var scope = torch.NewDisposeScope();
        Tensor rate = torch.full(1, (float)AdamWCase.Rate);
        double worst = 0;
        for (int i = 0; i < _parameters.Length; i++)
        {
            worst = Math.Max(worst, EmaError.MaxUlps(_parameters[i], expected._parameters[i], rate.expand(_parameters[i].numel())));
            foreach ((Tensor[] mine, Tensor[] theirs) in _averages.Zip(expected._averages))
                worst = Math.Max(worst, EmaError.MaxUlps(mine[i], theirs[i], _parameters[i]));
        }

        return worst;
    }

    public void Dispose()
    {
        Optimizer.Dispose();
        _theirs.Dispose();
        _ema?.Dispose();
        _model.Dispose();
        foreach (IDisposable item in (IDisposable[])[
            .. _gradients, .. _first, .. _second, .. _buffers, _firstWeight, .. _averageWeights, _keep, _secondDecay,
            _secondWeight])
            item.Dispose();
    }

    private IEnumerable<Tensor> State() => _parameters.Concat(_gradients).Concat(_averages.SelectMany(list => list));

    private void Average()
    {
        using IDisposable noGrad = torch.no_grad();
        for (int k = 0; k < _averages.Length; k++)
        {
            for (int i = 0; i < _parameters.Length; i++) _averages[k][i].lerp_(_parameters[i], _averageWeights[k]);
        }
    }
}
