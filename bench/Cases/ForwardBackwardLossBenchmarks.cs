using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="ForwardBackwardLoss"/>: two heads, the sizes that the published codes train with.</summary>
internal static class ForwardBackwardLossBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new ForwardBackwardCase("fb-n1024-d100", "metamotivo's batch: mean target, Gram form", 1024, 100, FbTarget.Mean),
        () => new ForwardBackwardCase("fb-n1024-d256", "the same with the width of its humanoid", 1024, 256, FbTarget.Mean),
        () => new ForwardBackwardCase("fb-n4096-d100", "four times the batch", 4096, 100, FbTarget.Mean),
        () => new ForwardBackwardCase(
            "fb-min-n1024-d50", "controllable_agent's: minimum of two heads, tiled form", 1024, 50, FbTarget.Minimum),
    ];
}

/// <summary>
/// Loss and gradients of one batch. Errors are relative to the largest element of a gradient, or to the largest part of the loss.
/// </summary>
internal sealed class ForwardBackwardCase(string name, string description, int count, int dimension, FbTarget target) : KernelCase
{
    private const int Heads = 2;
    private const double Tolerance = 5e-6, Orthonormality = 1;

    private readonly List<Tensor> _owned = [];
    private readonly FbOptions _options = new()
    {
        Discount = 0.98,
        Convention = target == FbTarget.Mean ? FbConvention.MetaMotivo : FbConvention.ControllableAgent,
        Target = target,
        Orthonormality = Orthonormality,
    };

    private TorchForwardBackward _torch = null!;
    private FbTensors _tensors;
    private AuxBackend _backend;

    public override string Path => "successor-measure";

    public override string Name => name;

    public override string Description => description;

    public override string DType => "f32";

    // F, F̄ and ∂F of each head; B, B̄ and ∂B; done.
    public override long Bytes => 3L * (Heads + 1) * count * dimension * sizeof(float) + count;

    public override bool InPlace => false;

    public override CaseArm Ours => new("ForwardBackwardLoss.Run", () => ForwardBackwardLoss.Run(_tensors, _options, _backend));

    public override IReadOnlyList<CaseArm> BestCandidates => target == FbTarget.Mean
        ? [new("Gram form in libtorch ops", () => _torch.Gram().Dispose())]
        : [new("n x n, gradients written out", () => _torch.Matrices().Dispose())];

    public override CaseArm? Published => new("n x n, autograd", () => _torch.Autograd().Dispose());

    public override void Prepare(CaseSettings settings)
    {
        _backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        if (!ForwardBackwardLoss.IsSupported(_backend, out string reason))
            throw new BackendUnavailableException(nameof(ForwardBackwardLoss), _backend, reason);
        AuxRuntime.CpuThreads = settings.Threads;
        torch.manual_seed(settings.Seed);
        using var scope = torch.NewDisposeScope();

        // B on the sphere of radius √d, F such that F · B is of the order of 1, targets a little behind.
        double root = Math.Sqrt(dimension);
        Tensor forward = Kept(torch.randn(Heads, count, dimension) / root);
        Tensor backward = torch.randn(count, dimension);
        backward = Kept(backward / backward.norm(1, true) * root);
        Tensor targetForward = Kept(forward + 0.1 * torch.randn(Heads, count, dimension) / root);
        Tensor targetBackward = Kept(backward + 0.1 * torch.randn(count, dimension));
        Tensor done = Kept(torch.rand(count) < 0.02);
        _torch = new(forward, backward, targetForward, targetBackward, Kept(_options.Discount * (1 - done.to(torch.float32))), _options);
        _tensors = new FbTensors
        {
            Forward = forward.ToTensorView(),
            Backward = backward.ToTensorView(),
            TargetForward = targetForward.ToTensorView(),
            TargetBackward = targetBackward.ToTensorView(),
            Done = done.ToTensorView(),
            ForwardGradient = Kept(torch.zeros_like(forward)).ToTensorView(),
            BackwardGradient = Kept(torch.zeros_like(backward)).ToTensorView(),
            Loss = Kept(torch.zeros(4, dtype: torch.float64)).ToTensorView(),
        };
    }

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor[] expected = Run(AuxBackend.Reference), actual = Run(_backend);
        double worst = Enumerable.Range(0, expected.Length).Max(i => Error(actual[i], expected[i]));

        // The baselines compute the same, or their times mean nothing.
        double baselines = new[] { target == FbTarget.Mean ? _torch.Gram() : _torch.Matrices(), _torch.Autograd() }.Max(result =>
        {
            using (result) return Math.Max(Error(result.ForwardGradient, expected[0]), Error(result.BackwardGradient, expected[1]));
        });
        if (baselines > 1e-4) throw new VerificationException($"a baseline is {baselines:E1} from the reference", baselines);
        return worst <= Tolerance
            ? worst
            : throw new VerificationException($"{worst:E1} from the reference, {Tolerance} allowed", worst);
    }

    public override void Dispose()
    {
        foreach (Tensor tensor in _owned) tensor.Dispose();
        _owned.Clear();
    }

    private Tensor[] Run(AuxBackend backend)
    {
        ForwardBackwardLoss.Run(_tensors, _options, backend);
        TensorView[] outputs = [_tensors.ForwardGradient, _tensors.BackwardGradient, _tensors.Loss];
        return [.. outputs.Select(view => ((Tensor)view.Owner!).clone())];
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

/// <summary>Loss and gradients as libtorch gives them.</summary>
internal sealed record TorchForwardBackwardResult(Tensor Loss, Tensor ForwardGradient, Tensor BackwardGradient) : IDisposable
{
    public void Dispose()
    {
        Loss.Dispose();
        ForwardGradient.Dispose();
        BackwardGradient.Dispose();
    }
}

/// <summary>
/// The forward-backward loss in libtorch's operations: as the codes write it, and in the best rewritings that we know. All in float32.
/// </summary>
internal sealed class TorchForwardBackward(Tensor f, Tensor b, Tensor fBar, Tensor bBar, Tensor discounts, FbOptions options)
{
    private readonly long _heads = f.shape[0], _n = f.shape[1], _d = f.shape[2];
    private readonly double _scale = (options.Convention == FbConvention.ControllableAgent ? 2 : 1) * options.Orthonormality;
    private static readonly long[] Row = [-1];

    private double Pairs => _n * (_n - 1.0);

    /// <summary>The codes' expression: n × n matrices, gradients by autograd.</summary>
    public TorchForwardBackwardResult Autograd()
    {
        using var scope = torch.NewDisposeScope();
        Tensor forward = f.detach().requires_grad_(), backward = b.detach().requires_grad_();
        Tensor target;
        using (torch.no_grad())
        {
            Tensor targets = torch.matmul(fBar, bBar.t());
            target = options.Target == FbTarget.Mean ? targets.mean([0]) : torch.minimum(targets[0], targets[1]);
            target = discounts.unsqueeze(1) * target;
        }

        Tensor offDiagonal = 1 - torch.eye(_n);
        Tensor products = torch.matmul(forward, backward.t());
        Tensor difference = products - target;
        Tensor loss = 0.5 * (difference * offDiagonal).pow(2).sum() / Pairs;
        Tensor diagonal = options.Convention == FbConvention.MetaMotivo ? difference : products;
        loss -= diagonal.diagonal(0, 1, 2).mean() * _heads;
        Tensor covariance = torch.matmul(backward, backward.t());
        loss += _scale * (0.5 * (covariance * offDiagonal).pow(2).sum() / Pairs - covariance.diagonal().mean());
        loss.backward();
        return Result(loss, forward.grad!, backward.grad!);
    }

    /// <summary>Mean target: d × d matrices, gradients written out, every product that heads can share shared.</summary>
    public TorchForwardBackwardResult Gram()
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        Tensor stacked = f.view(_heads * _n, _d), sum = f.sum([0]);
        Tensor target = fBar.mean([0]).mul_(discounts.unsqueeze(1));
        Tensor bb = b.t().mm(b), ff = stacked.t().mm(stacked), cross = target.t().mm(sum), crossB = bBar.t().mm(b);
        Tensor targets = target.t().mm(target), targetsB = bBar.t().mm(bBar);
        Tensor products = (f * b).sum(Row), ownTargets = (target * bBar).sum(Row), norms = (b * b).sum(Row);
        Tensor difference = products - ownTargets;

        Tensor squares = (ff * bb).sum() - 2 * (cross * crossB).sum() + _heads * (targets * targetsB).sum()
            - (difference * difference).sum();
        Tensor orthogonal = (bb * bb).sum() - (norms * norms).sum();
        Tensor loss = squares * (0.5 / Pairs) - difference.sum() * (1.0 / _n)
            + _scale * (orthogonal * (0.5 / Pairs) - norms.sum() * (1.0 / _n));

        Tensor weights = (difference * (1 / Pairs)).add_(1.0 / _n);
        Tensor forward = stacked.mm(bb * (1 / Pairs)).view(_heads, _n, _d);
        forward.sub_(target.mm(crossB.mul_(1 / Pairs))).addcmul_(weights.unsqueeze(2), b, Minus);
        Tensor backward = b.mm(ff.add_(bb, alpha: 2 * _scale).mul_(1 / Pairs));
        backward.addmm_(bBar, cross, beta: 1, alpha: (float)(-1 / Pairs));
        AddDiagonals(backward, weights, norms);
        return Result(loss, forward, backward);
    }

    /// <summary>Any target: n × n matrices, gradients written out, orthonormality from d × d matrices.</summary>
    public TorchForwardBackwardResult Matrices()
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        Tensor target = torch.minimum(fBar[0].mm(bBar.t()), fBar[1].mm(bBar.t())).mul_(discounts.unsqueeze(1));
        Tensor bb = b.t().mm(b), norms = (b * b).sum(Row), weights = torch.full([_heads, _n], 1.0 / _n);
        Tensor loss = (_scale * 0.5 / Pairs) * ((bb * bb).sum() - (norms * norms).sum()) - _scale / _n * norms.sum();
        var forward = new Tensor[_heads];
        Tensor backward = b.mm(bb).mul_(2 * _scale / Pairs);
        for (int e = 0; e < _heads; e++)
        {
            Tensor difference = f[e].mm(b.t()), own = difference.diagonal().sum();
            difference.sub_(target).diagonal().fill_(0);
            loss = loss + difference.pow(2).sum() * (0.5 / Pairs) - own * (1.0 / _n);
            forward[e] = torch.addmm(b, difference, b, beta: (float)(-1.0 / _n), alpha: (float)(1 / Pairs));
            backward.addmm_(difference.t(), f[e], beta: 1, alpha: (float)(1 / Pairs));
        }

        AddDiagonals(backward, weights, norms);
        return Result(loss, torch.stack(forward), backward);
    }

    private static Scalar Minus { get; } = (-1.0).ToScalar();

    private void AddDiagonals(Tensor backward, Tensor weights, Tensor norms)
    {
        for (int e = 0; e < _heads; e++) backward.addcmul_(weights[e].unsqueeze(1), f[e], Minus);
        backward.addcmul_((norms * (2 * _scale / Pairs)).add_(2 * _scale / _n).unsqueeze(1), b, Minus);
    }

    private static TorchForwardBackwardResult Result(Tensor loss, Tensor forward, Tensor backward) => new(
        loss.MoveToOuterDisposeScope(), forward.MoveToOuterDisposeScope(), backward.MoveToOuterDisposeScope());
}
