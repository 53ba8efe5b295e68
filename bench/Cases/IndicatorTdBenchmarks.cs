using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="IndicatorTd"/>, by batch and tasks.</summary>
internal static class IndicatorTdBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new IndicatorTdCase("td-256x100", "indicators, TD loss and gradient of 256 transitions and 100 tasks", 256, 100),
        () => new IndicatorTdCase("td-256x1000", "the same of 1,000 tasks", 256, 1000),
    ];
}

/// <summary>
/// One batch: loss and gradient from predictions, next values, features and thresholds. Errors in ulps of what the gradient is made of.
/// </summary>
internal sealed class IndicatorTdCase(string name, string description, int rows, int tasks) : SuccessorCase(name, description)
{
    private const double Discount = 0.99, ToleranceUlps = 2;

    private Tensor _prediction = null!, _leaf = null!, _next = null!, _done = null!, _goesOn = null!, _features = null!,
        _thresholds = null!;
    private Tensor _gradient = null!, _loss = null!;

    public override long Bytes => 4L * rows * tasks * sizeof(float);

    public override CaseArm Ours
    {
        get
        {
            var (q, next, done, outputs) = (View(_prediction), View(_next), View(_done), Outputs(_gradient, _loss));
            var sets = IndicatorViews.Threshold(View(_features), View(_thresholds));
            return new("IndicatorTd.Run", () => IndicatorTd.Run(q, next, done, sets, Discount, Start.Current, false, outputs, Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("gradient by hand, in place", () =>
        {
            Tensor error = _prediction.sub(Target());
            _ = error.view(-1).dot(error.view(-1)).mul_(0.5 / (rows * tasks));
            error.mul_(1.0 / (rows * tasks));
        }),
        Arm("mse_loss, autograd", () =>
        {
            Tensor target;
            using (torch.no_grad()) target = Target();
            functional.mse_loss(_leaf, target).mul(0.5).backward();
            _leaf.grad = null;
        }),
    ];

    public override CaseArm Published => Arm("pvn/offline.py, autograd", () =>
    {
        Tensor indicators = (_features + _thresholds > 0).to_type(torch.float32);
        Tensor target = (indicators + Discount * (1 - _done.to_type(torch.float32)).unsqueeze(1) * _next).detach();
        Tensor loss = (0.5 * (target - _leaf).square()).mean();
        loss.backward();
        _leaf.grad = null;
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor expected = torch.zeros(rows, tasks), expectedLoss = torch.zeros(1, torch.float64);
        Ours.Run();
        IndicatorTd.Run(
            View(_prediction), View(_next), View(_done), IndicatorViews.Threshold(View(_features), View(_thresholds)), Discount,
            Start.Current, false, Outputs(expected, expectedLoss), AuxBackend.Reference);
        Tensor scale = (_prediction.abs() + Discount * _next.abs() + 1) / (rows * tasks);
        double ulps = ((_gradient - expected).abs() / scale).max().item<float>() * Math.Pow(2, 23);
        double loss = Math.Abs(_loss.item<double>() / expectedLoss.item<double>() - 1);
        _ = Within(1e-6, "of the loss", loss);
        return Within(ToleranceUlps, "ulps", ulps);
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(IndicatorTd.IsSupported(backend, out string reason), nameof(IndicatorTd), backend, reason);

    protected override void Allocate(int seed)
    {
        _prediction = Keep(torch.randn(rows, tasks));
        _leaf = Keep(_prediction.clone().requires_grad_());
        _next = Keep(torch.randn(rows, tasks));
        _features = Keep(torch.randn(rows, tasks));
        _thresholds = Keep(torch.full(tasks, -1.65f)); // some 5 % are active
        _done = Keep(torch.rand(rows) < 0.02);
        _goesOn = Keep(_done.logical_not().to_type(torch.float32).unsqueeze(1)); // given to the baselines ready-made
        _gradient = Keep(torch.zeros(rows, tasks));
        _loss = Keep(torch.zeros(1, torch.float64));
    }

    private Tensor Target() => _features.add(_thresholds).gt_(0).addcmul_(_next, _goesOn, Discount);

    private static TdOutputs Outputs(Tensor gradient, Tensor loss) => new() { Gradient = View(gradient), Loss = View(loss) };
}
