using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="PvnHead"/>.</summary>
internal static class PvnHeadBenchmarks
{
    private const string Sizes = "pvn-head-b256-f512-t100-a6";

    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new PvnHeadCase(Sizes, "loss and gradients of the heads of 100 tasks and 6 actions, 512 features", 256, 512, 100, 6),
        () => new PvnHeadCase(Sizes + "-libtorch-products", "the same with libtorch's products around our grouping and epilogue", 256, 512,
        100, 6)
        {
            OwnProducts = false,
        },
    ];
}

/// <summary>
/// One update of the heads, the mean over the target's actions included, since the target moves with each step. Errors relative to the
/// largest element of a gradient.
/// </summary>
internal sealed class PvnHeadCase(string name, string description, int rows, int features, int tasks, int actions)
    : SuccessorCase(name, description)
{
    private const double Discount = 0.99, Tolerance = 5e-6;

    private int[] _taken = [];
    private Tensor _phi = null!, _next = null!, _weights = null!, _targets = null!, _mean = null!, _actions = null!, _actionIndex = null!;
    private Tensor _done = null!, _goesOn = null!, _bits = null!, _indicators = null!, _byFeatures = null!, _byWeights = null!,
        _loss = null!;
    private Tensor _phiLeaf = null!, _weightsLeaf = null!;

    /// <summary>Whether <see cref="PvnHead"/> makes the products too.</summary>
    public bool OwnProducts { get; init; } = true;

    public override long Bytes =>
        sizeof(float) * (3L * rows * features + 3L * tasks * actions * features + 3L * tasks * features)
        + (long)rows * Indicators.BytesPerState(tasks);

    public override CaseArm Ours
    {
        get
        {
            if (!OwnProducts) return ArmWithoutGrad("PvnHead.RunGrouped, libtorch products", () => _ = ByAction(epilogue: null));
            TensorView phi = View(_phi), next = View(_next), weights = View(_weights), targets = View(_targets), mean = View(_mean);
            var (taken, done, sets) = (View(_actions), View(_done), IndicatorViews.Packed(View(_bits)));
            PvnOutputs outputs = Outputs(_byFeatures, _byWeights, _loss);
            return new("PvnHead.Run", () =>
            {
                PvnHead.MeanOverActions(targets, mean, Backend);
                PvnHead.Run(phi, next, weights, mean, taken, done, sets, Discount, Start.Current, false, outputs, backend: Backend);
            });
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("products by action, gradients by hand", () => _ = ByAction(LibtorchEpilogue)),
        Arm("products by action, autograd", () =>
        {
            Tensor target;
            using (torch.no_grad()) target = Target(_next.mm(_targets.mean([1L]).t()));
            Tensor order = torch.tensor(ActionGroups.Of(_taken, actions).Order.ToArray(), torch.int64);
            Tensor grouped = _phiLeaf.index_select(0, order);
            Tensor[] parts = [.. Groups().Where(group => group.Count > 0)
                .Select(group => grouped.narrow(0, group.From, group.Count).mm(_weightsLeaf.select(1, group.Action).t()))];
            torch.nn.functional.mse_loss(torch.cat(parts), target.index_select(0, order)).mul(0.5).backward();
            (_phiLeaf.grad, _weightsLeaf.grad) = (null, null);
        }),
    ];

    public override CaseArm Published => Arm("pvn/offline.py, einsum, autograd", () =>
    {
        Tensor target;
        using (torch.no_grad()) target = Target(torch.einsum("bf,taf->bta", _next, _targets).mean([2L]));
        Tensor all = torch.einsum("bf,taf->bta", _phiLeaf, _weightsLeaf);
        Tensor taken = all.gather(2, _actionIndex).squeeze(2);
        (0.5 * (target - taken).square()).mean().backward();
        (_phiLeaf.grad, _weightsLeaf.grad) = (null, null);
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor byFeatures = torch.zeros_like(_phi), byWeights = torch.zeros_like(_weights), loss = torch.zeros(1, torch.float64);
        PvnHead.MeanOverActions(View(_targets), View(_mean), AuxBackend.Reference);
        PvnHead.Run(
            View(_phi), View(_next), View(_weights), View(_mean), View(_actions), View(_done), IndicatorViews.Packed(View(_bits)), Discount,
            Start.Current, false, Outputs(byFeatures, byWeights, loss), backend: AuxBackend.Reference);
        var (ours, baseline) = (OwnProducts ? Run() : ByAction(null), ByAction(LibtorchEpilogue));
        _ = Within(1e-4, "of the largest element (a baseline)",
            RelativeToLargest(baseline.ByFeatures, byFeatures), RelativeToLargest(baseline.ByWeights, byWeights));
        _ = Within(1e-5, "of the loss", Math.Abs(ours.Loss / loss.item<double>() - 1));
        return Within(
            Tolerance, "of the largest element",
            RelativeToLargest(ours.ByFeatures, byFeatures), RelativeToLargest(ours.ByWeights, byWeights));

        (Tensor ByFeatures, Tensor ByWeights, double Loss) Run()
        {
            Ours.Run();
            return (_byFeatures, _byWeights, _loss.item<double>());
        }
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(PvnHead.IsSupported(backend, out string reason), nameof(PvnHead), backend, reason);

    protected override void Allocate(int seed)
    {
        var random = new Random(seed);
        _taken = [.. Enumerable.Range(0, rows).Select(_ => random.Next(actions))];
        _phi = Keep(torch.randn(rows, features));
        _phiLeaf = Keep(_phi.clone().requires_grad_());
        _next = Keep(torch.randn(rows, features));
        _weights = Keep(torch.randn(tasks, actions, features).mul_(0.05));
        _weightsLeaf = Keep(_weights.clone().requires_grad_());
        _targets = Keep(torch.randn(tasks, actions, features).mul_(0.05));
        _mean = Keep(torch.zeros(tasks, features));
        _actions = Keep(torch.tensor(_taken));
        _actionIndex = Keep(torch.tensor(_taken, torch.int64).view(rows, 1, 1).expand(rows, tasks, 1).contiguous());
        _done = Keep(torch.rand(rows) < 0.02);
        _goesOn = Keep(_done.logical_not().to_type(torch.float32).unsqueeze(1)); // given to the baselines ready-made, as are
        _indicators = Keep((torch.rand(rows, tasks) < 0.05).to_type(torch.float32)); // indicators as float32
        _bits = Keep(torch.zeros(rows, Indicators.BytesPerState(tasks), torch.uint8));
        IndicatorCalibration.Pack(View(_indicators), View(Keep(torch.zeros(tasks))), View(_bits));
        _byFeatures = Keep(torch.zeros(rows, features));
        _byWeights = Keep(torch.zeros(tasks, actions, features));
        _loss = Keep(torch.zeros(1, torch.float64));
    }

    private Tensor Target(Tensor next) => next.mul_(_goesOn).mul_(Discount).add_(_indicators);

    private IEnumerable<(int Action, int From, int Count)> Groups()
    {
        var groups = ActionGroups.Of(_taken, actions);
        int[] offsets = groups.Offsets.ToArray();
        return Enumerable.Range(0, actions).Select(a => (a, offsets[a], offsets[a + 1] - offsets[a]));
    }

    private (Tensor Gradient, double Loss) LibtorchEpilogue(Tensor prediction, Tensor next, Tensor order)
    {
        Tensor error = prediction.sub_(Target(next).index_select(0, order));
        double loss = error.view(-1).dot(error.view(-1)).item<float>() / (2.0 * rows * tasks);
        return (error.mul_(1.0 / (rows * tasks)), loss);
    }

    private (Tensor Gradient, double Loss) OwnEpilogue(ActionGroups groups, Tensor prediction, Tensor next)
    {
        Tensor gradient = torch.empty_like(prediction);
        double loss = PvnHead.RunGrouped(
            groups, Span(prediction), Span(next), _done.data<bool>().ToArray(), Indicators.Packed(Packed(_bits)), tasks, Discount,
            Start.Current, false, Span(gradient), backend: Backend);
        return (gradient, loss);
    }

    // The two exact savings, in libtorch's products: one head a row, and the target's heads averaged before.
    private (Tensor ByFeatures, Tensor ByWeights, double Loss) ByAction(
        Func<Tensor, Tensor, Tensor, (Tensor Gradient, double Loss)>? epilogue)
    {
        var groups = ActionGroups.Of(_taken, actions);
        Tensor order = torch.tensor(groups.Order.ToArray(), torch.int64);
        Tensor grouped = _phi.index_select(0, order);
        Tensor prediction = torch.empty(rows, tasks);
        foreach (var (action, from, count) in Groups())
        {
            if (count > 0) prediction.narrow(0, from, count).addmm_(grouped.narrow(0, from, count), _weights.select(1, action).t(), 0, 1);
        }

        Tensor next = _next.mm(_targets.mean([1L]).t());
        var (gradient, loss) = epilogue is null ? OwnEpilogue(groups, prediction, next) : epilogue(prediction, next, order);
        Tensor byGrouped = torch.empty_like(grouped), byWeights = torch.zeros_like(_weights);
        foreach (var (action, from, count) in Groups())
        {
            if (count == 0) continue;
            Tensor slope = gradient.narrow(0, from, count);
            byGrouped.narrow(0, from, count).addmm_(slope, _weights.select(1, action), 0, 1);
            byWeights.select(1, action).addmm_(slope.t(), grouped.narrow(0, from, count), 0, 1);
        }

        return (torch.empty_like(grouped).index_copy_(0, order, byGrouped), byWeights, loss);
    }

    private static unsafe Span<float> Span(Tensor tensor) => new((void*)View(tensor).Address, checked((int)tensor.numel()));

    private static unsafe ReadOnlySpan<byte> Packed(Tensor tensor) => new((void*)View(tensor).Address, checked((int)tensor.numel()));

    private static PvnOutputs Outputs(Tensor byFeatures, Tensor byWeights, Tensor loss) =>
        new() { FeatureGradient = View(byFeatures), WeightGradient = View(byWeights), Loss = View(loss) };
}
