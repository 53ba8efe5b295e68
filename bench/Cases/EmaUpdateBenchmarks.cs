using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="EmaUpdate"/>, by the tensors that they average.</summary>
internal static class EmaUpdateBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new EmaCase("many-small-2000x256", "2,000 tensors of 256 elements, addresses checked on each call", ManySmall, [0.999]),
        () => new EmaCase("many-small-2000x256-frozen", "the same, addresses trusted", ManySmall, [0.999]) { Frozen = true },
        () => new EmaCase("vit-s-22m", "the parameters of a ViT-S/16: 152 tensors, 22 million elements", VitS, [0.999]),
        () => new EmaCase("one-100m", "one tensor of 100 million elements", () => [[100_000_000]], [0.999]),
        () => new EmaCase("three-decays-vit-s", "a ViT-S/16 with averages of three widths, in one pass", VitS, [0.99, 0.999, 0.9999]),
        () => new EmaCase("bf16-params-vit-s", "a ViT-S/16 in bfloat16, averages in float32", VitS, [0.999])
        {
            SourceType = torch.ScalarType.BFloat16,
        },
        () => new EmaCase("bf16-averages-vit-s", "a ViT-S/16, averages stored in bfloat16, rounded stochastically", VitS, [0.999])
        {
            Storage = torch.ScalarType.BFloat16,
        },
        () => new EmaSwapCase("swap-vit-s", "a ViT-S/16 exchanged with its average, and back", VitS),
    ];

    private static IReadOnlyList<long[]> ManySmall() => [.. Enumerable.Repeat<long[]>([256], 2000)];

    private static IReadOnlyList<long[]> VitS()
    {
        using var model = new VisionTransformer(VisionTransformerSizes.VitS16);
        return [.. model.parameters().Select(parameter => parameter.shape)];
    }
}

/// <summary>
/// Averages of a list of tensors: an <see cref="EmaMixer"/> against loops over libtorch's in-place operations. Errors in ulps.
/// </summary>
internal sealed class EmaCase(string name, string description, Func<IReadOnlyList<long[]>> shapes, double[] decays) : KernelCase
{
    private const long CacheBytes = 64L << 20; // twice the last-level cache of the machines measured; all copies together exceed it
    private const double ToleranceUlps = 1;

    private readonly List<Replica> _replicas = [];
    private readonly List<IDisposable> _constants = [];
    private Tensor[] _weights = [];
    private Scalar _steps = null!;
    private Scalar[] _decays = [], _complements = [];
    private int _turn;

    /// <summary>Whether the mixer trusts that no tensor moved.</summary>
    public bool Frozen { get; init; }

    /// <summary>The sources' type.</summary>
    public torch.ScalarType SourceType { get; init; } = torch.ScalarType.Float32;

    /// <summary>The averages' type.</summary>
    public torch.ScalarType Storage { get; init; } = torch.ScalarType.Float32;

    public override string Path => "ema";

    public override string Name => name;

    public override string Description => description;

    public override string DType => IsRounded ? "f32 to bf16" : IsFloat32 ? "f32" : "bf16 to f32";

    public override long Bytes => _replicas[0].ElementCount * ((IsFloat32 ? 4 : 2) + (IsRounded ? 4L : 8L) * decays.Length);

    public override bool InPlace => true;

    public override CaseArm Ours => new("EmaMixer.Update", () => Next().Mixer.Update(Rounding, decays));

    public override IReadOnlyList<CaseArm> BestCandidates =>
        IsRounded ? [new("lerp_, frexp, rand, floor_ per tensor", () => Next().Each(LerpRounded))]
        : IsFloat32 ? [new("lerp_ per tensor", () => Next().Each(Lerp)), new("mul_().add_() per tensor", () => Next().Each(MulAdd))]
        : [new("widened, lerp_ per tensor", () => Next().Each(WidenedLerp)), new("mul_().add_() per tensor", () => Next().Each(MulAdd))];

    private bool IsFloat32 => SourceType == torch.ScalarType.Float32;

    private bool IsRounded => Storage == torch.ScalarType.BFloat16;

    private EmaRounding Rounding => IsRounded ? EmaRounding.Stochastic(seed: 1, _turn) : default;

    public override void Prepare(CaseSettings settings)
    {
        var backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        if (!EmaUpdate.IsSupported(backend, out string reason)) throw new BackendUnavailableException(nameof(EmaUpdate), backend, reason);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        IReadOnlyList<long[]> list = shapes();
        do _replicas.Add(new(list, SourceType, Storage, decays.Length, backend, Frozen));
        while (_replicas[0].ElementCount * sizeof(float) * (1 + decays.Length) * _replicas.Count < CacheBytes);

        _steps = Kept(256.0.ToScalar());
        _weights = [.. decays.Select(decay => Kept(torch.tensor((float)(1 - decay))))];
        _decays = [.. decays.Select(decay => Kept(decay.ToScalar()))];
        _complements = [.. decays.Select(decay => Kept((1 - decay).ToScalar()))];
    }

    public override double Verify()
    {
        Replica replica = _replicas[0];
        using var expected = new Replica(replica);
        EmaRounding rounding = Rounding;
        replica.Mixer.Update(rounding, decays);
        using (EmaGroup reference = expected.Group()) reference.Update(decays, rounding, AuxBackend.Reference);
        double worst = replica.MaxUlps(expected);
        return worst <= ToleranceUlps
            ? worst
            : throw new VerificationException($"{worst:0.###} ulps from the reference, {ToleranceUlps} allowed", worst);
    }

    public override void Dispose()
    {
        foreach (IDisposable item in _replicas.Concat(_constants)) item.Dispose();
        _replicas.Clear();
        _constants.Clear();
    }

    private void Lerp(Tensor average, Tensor source, int k) => average.lerp_(source, _weights[k]);

    private void WidenedLerp(Tensor average, Tensor source, int k)
    {
        using Tensor wide = source.to(torch.float32); // lerp_ takes no other type
        average.lerp_(wide, _weights[k]);
    }

    private void MulAdd(Tensor average, Tensor source, int k) => average.mul_(_decays[k]).add_(source, _complements[k]);

    // Stochastic rounding in TorchSharp's operations: eight bits of mantissa, and a random number below one of them before the rest goes.
    private void LerpRounded(Tensor average, Tensor source, int k)
    {
        using Tensor wide = average.to(torch.float32);
        wide.lerp_(source, _weights[k]);
        (Tensor mantissa, Tensor exponent) = wide.frexp();
        using (mantissa)
        using (exponent)
        using (Tensor random = torch.rand(wide.shape))
        {
            mantissa.mul_(_steps).add_(random).floor_().div_(_steps).ldexp_(exponent);
            average.copy_(mantissa);
        }
    }

    private Replica Next() => _replicas[_turn++ % _replicas.Count];

    private T Kept<T>(T constant) where T : IDisposable
    {
        _constants.Add(constant);
        return constant;
    }

    /// <summary>One set of sources and averages. Ours and the baselines take turns on the same tensors.</summary>
    private sealed class Replica : IDisposable
    {
        private readonly Tensor[] _sources;
        private readonly Tensor[][] _averages;

        public Replica(
            IReadOnlyList<long[]> shapes, torch.ScalarType type, torch.ScalarType storage, int averages, AuxBackend backend, bool frozen)
        {
            _sources = [.. shapes.Select(shape => torch.randn(shape, type))];
            Mixer = EmaMixer.WithOwnAverages(_sources, averages, storage);
            Mixer.Backend = backend;
            _averages = [.. Enumerable.Range(0, averages).Select(k => Mixer.Averages(k).ToArray())];
            foreach (Tensor average in _averages.SelectMany(list => list)) average.normal_(0, 1);
            if (frozen) Mixer.Freeze();
        }

        public Replica(Replica other)
        {
            _sources = [.. other._sources.Select(source => source.clone())];
            Mixer = EmaMixer.WithOwnAverages(_sources, other._averages.Length, other._averages[0][0].dtype);
            _averages = [.. Enumerable.Range(0, other._averages.Length).Select(k => Mixer.Averages(k).ToArray())];
            foreach ((Tensor average, Tensor value) in _averages.SelectMany(list => list).Zip(other._averages.SelectMany(list => list)))
                average.copy_(value);
        }

        public EmaMixer Mixer { get; }

        public long ElementCount => _sources.Sum(source => source.numel());

        public EmaGroup Group() => EmaGroup.FromViews(
            [.. _sources.Select(source => source.ToTensorView())],
            [.. _averages.Select(list => list.Select(average => average.ToTensorView()).ToArray())]);

        /// <summary>The loop that a user writes: for each tensor, for each average.</summary>
        public void Each(Action<Tensor, Tensor, int> update)
        {
            for (int i = 0; i < _sources.Length; i++)
            {
                for (int k = 0; k < _averages.Length; k++) update(_averages[k][i], _sources[i], k);
            }
        }

        public double MaxUlps(Replica expected)
        {
            double worst = 0;
            for (int k = 0; k < _averages.Length; k++)
            {
                for (int i = 0; i < _sources.Length; i++)
                    worst = Math.Max(worst, EmaError.MaxUlps(_averages[k][i], expected._averages[k][i], _sources[i]));
            }

            return worst;
        }

        public void Dispose()
        {
            Mixer.Dispose();
            foreach (Tensor source in _sources) source.Dispose();
        }
    }
}

/// <summary>The error of an average, in the unit that <see cref="EmaUpdate"/> promises.</summary>
internal static class EmaError
{
    private const long ChunkElements = 1 << 20;

    /// <summary>
    /// The largest difference, in ulps of max(|average|, |source|) of the average's type. The average after the update stands for the one
    /// before it.
    /// </summary>
    public static double MaxUlps(Tensor actual, Tensor expected, Tensor source)
    {
        using IDisposable noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        int mantissa = actual.dtype == torch.bfloat16 ? 7 : 23;
        Tensor flatActual = actual.flatten(), flatExpected = expected.flatten(), flatSource = source.flatten();
        double worst = 0;
        for (long at = 0; at < flatActual.shape[0]; at += ChunkElements)
        {
            using var chunk = torch.NewDisposeScope();
            long count = Math.Min(ChunkElements, flatActual.shape[0] - at);
            Tensor e = flatExpected.narrow(0, at, count).to(torch.float64), p = flatSource.narrow(0, at, count).to(torch.float64);
            Tensor ulp = torch.exp2(torch.maximum(e.abs(), p.abs()).clamp_min(float.Epsilon).log2().floor() - mantissa);
            worst = Math.Max(worst, ((flatActual.narrow(0, at, count).to(torch.float64) - e).abs() / ulp).max().item<double>());
        }

        return worst;
    }
}
