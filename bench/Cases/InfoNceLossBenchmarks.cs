using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="InfoNceLoss"/>: JaxGCRL's default logits, negative distances, with its penalty.</summary>
internal static class InfoNceLossBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new InfoNceCase("infonce-n4096-d64", "4,096 pairs of JaxGCRL's width", 4096, 64),
    ];
}

/// <summary>
/// Loss and gradients of one batch. Errors are relative to the largest element of a gradient, or to the largest part of the loss.
/// </summary>
internal sealed class InfoNceCase(string name, string description, int count, int dimension) : KernelCase
{
    private const double Tolerance = 1e-5, Penalty = 0.1;

    private readonly List<Tensor> _owned = [];
    private readonly InfoNceOptions _options = new() { LogSumExpPenalty = Penalty };
    private InfoNceTensors _tensors;
    private Tensor _queries = null!, _keys = null!, _labels = null!;
    private AuxBackend _backend;

    public override string Path => "successor-measure";

    public override string Name => name;

    public override string Description => description;

    public override string DType => "f32";

    public override long Bytes => 4L * count * dimension * sizeof(float);

    public override bool InPlace => false;

    public override CaseArm Ours => new("InfoNceLoss.Run", () => InfoNceLoss.Run(_tensors, _options, _backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        new("n x n, gradients written out", () => Release(Matrices())),
        new("the same, 128 rows at a time", () => Release(Blocks())),
    ];

    public override CaseArm? Published => new("cdist, cross_entropy, autograd", () => Release(Autograd()));

    public override void Prepare(CaseSettings settings)
    {
        _backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        if (!InfoNceLoss.IsSupported(_backend, out string reason))
            throw new BackendUnavailableException(nameof(InfoNceLoss), _backend, reason);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        using var scope = torch.NewDisposeScope();
        _queries = Kept(torch.randn(count, dimension) / Math.Sqrt(dimension));
        _keys = Kept(_queries + 0.5 * torch.randn(count, dimension) / Math.Sqrt(dimension));
        _labels = Kept(torch.arange(count));
        _tensors = new InfoNceTensors
        {
            Queries = _queries.ToTensorView(),
            Keys = _keys.ToTensorView(),
            QueryGradient = Kept(torch.zeros_like(_queries)).ToTensorView(),
            KeyGradient = Kept(torch.zeros_like(_keys)).ToTensorView(),
            Loss = Kept(torch.zeros(2, dtype: torch.float64)).ToTensorView(),
        };
    }

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor[] expected = Run(AuxBackend.Reference), actual = Run(_backend);
        double worst = Enumerable.Range(0, expected.Length).Max(i => Error(actual[i], expected[i]));

        // The baselines compute the same, or their times mean nothing.
        foreach (Tensor[] baseline in new[] { Matrices(), Blocks(), Autograd() })
        {
            double error = Math.Max(Error(baseline[1], expected[0]), Error(baseline[2], expected[1]));
            if (!(error <= 1e-3)) throw new VerificationException($"a baseline is {error:E1} from the reference", error);
            Release(baseline);
        }

        return worst <= Tolerance ? worst : throw new VerificationException($"{worst:E1} from the reference, {Tolerance} allowed", worst);
    }

    public override void Dispose()
    {
        foreach (Tensor tensor in _owned) tensor.Dispose();
        _owned.Clear();
    }

    private Tensor[] Matrices()
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        Tensor keyGradient = torch.zeros_like(_keys), keySums = torch.zeros(count, 1);
        (Tensor loss, Tensor queryGradient) = Block(0, count, keyGradient, keySums);
        return Moved(loss, queryGradient, keyGradient.sub_(_keys * keySums));
    }

    // Of some rows, which then stay in the cache from one step to the next.
    private Tensor[] Blocks()
    {
        const int Rows = 128;
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        Tensor keyGradient = torch.zeros_like(_keys), keySums = torch.zeros(count, 1);
        var blocks = Enumerable.Range(0, (count + Rows - 1) / Rows)
            .Select(block => Block(block * Rows, Math.Min(Rows, count - block * Rows), keyGradient, keySums)).ToArray();
        Tensor loss = torch.stack(blocks.Select(block => block.Loss).ToArray()).sum();
        return Moved(loss, torch.cat(blocks.Select(block => block.Gradient).ToArray()), keyGradient.sub_(_keys * keySums));
    }

    // Every step on n × n numbers is done in place, once.
    private (Tensor Loss, Tensor Gradient) Block(int from, int rows, Tensor keyGradient, Tensor keySums)
    {
        using var scope = torch.NewDisposeScope();
        Tensor queries = _queries.narrow(0, from, rows);
        Tensor squares = (queries * queries).sum([1], keepdim: true), keySquares = (_keys * _keys).sum([1], keepdim: true);
        Tensor distance = torch.addmm(squares + keySquares.t(), queries, _keys.t(), beta: 1, alpha: -2).clamp_min_(0).sqrt_();
        Tensor sums = distance.neg().logsumexp(1);
        Tensor loss = ((sums + distance.diagonal(from)).sum() + Penalty * (sums * sums).sum()) * (1.0 / count);

        Tensor factors = (sums * (2 * Penalty / count)).add_(1.0 / count).unsqueeze(1);
        Tensor weights = distance.add(sums.unsqueeze(1)).neg_().exp_().mul_(factors);
        weights.diagonal(from).sub_(1.0 / count);
        weights.div_(distance);
        keyGradient.addmm_(weights.t(), queries, beta: 1, alpha: 1);
        keySums.add_(weights.sum([0]).unsqueeze(1));
        Tensor gradient = weights.mm(_keys).sub_(queries * weights.sum([1], keepdim: true));
        return (loss.MoveToOuterDisposeScope(), gradient.MoveToOuterDisposeScope());
    }

    private Tensor[] Autograd()
    {
        using var scope = torch.NewDisposeScope();
        Tensor queries = _queries.detach().requires_grad_(), keys = _keys.detach().requires_grad_();
        Tensor logits = -torch.cdist(queries, keys);
        Tensor loss = torch.nn.functional.cross_entropy(logits, _labels) + Penalty * logits.logsumexp(1).pow(2).mean();
        loss.backward();
        return Moved(loss, queries.grad!, keys.grad!);
    }

    private static Tensor[] Moved(params Tensor[] tensors) => [.. tensors.Select(tensor => tensor.MoveToOuterDisposeScope())];

    private static void Release(Tensor[] tensors)
    {
        foreach (Tensor tensor in tensors) tensor.Dispose();
    }

    private Tensor[] Run(AuxBackend backend)
    {
        InfoNceLoss.Run(_tensors, _options, backend);
        return [.. new[] { _tensors.QueryGradient, _tensors.KeyGradient, _tensors.Loss }.Select(view => ((Tensor)view.Owner!).clone())];
    }

    private static double Error(Tensor actual, Tensor expected)
    {
        using var scope = torch.NewDisposeScope();
        double error = ((actual - expected).abs().max() / expected.abs().max()).to(torch.float64).item<double>();
        return double.IsNaN(error) ? double.PositiveInfinity : error;
    }

    private Tensor Kept(Tensor tensor)
    {
        _owned.Add(tensor.DetachFromDisposeScope());
        return tensor;
    }
}
