using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="IndicatorCalibration"/>.</summary>
internal static class IndicatorCalibrationBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new PinballCase("rni-256x100", "a training step's indicators: pinball loss and gradient, bits, counts", 256, 100),
        () => new QuantileCase("rni-quantile-10000x100", "exact thresholds of 100 tasks from 10,000 states", 10_000, 100),
    ];
}

/// <summary>
/// A pinball step without the optimiser's part. Baselines leave the indicators as bools, one byte a task. Errors of the gradient, in ulps
/// of the largest that it can be.
/// </summary>
internal sealed class PinballCase(string name, string description, int rows, int tasks) : SuccessorCase(name, description)
{
    private const double Rate = 0.05;

    private Tensor _features = null!, _thresholds = null!, _leaf = null!, _gradient = null!, _loss = null!, _bits = null!, _counts = null!;

    public override long Bytes => (long)rows * tasks * sizeof(float) + (long)rows * Indicators.BytesPerState(tasks) + 12L * tasks;

    public override CaseArm Ours
    {
        get
        {
            var (features, thresholds, outputs) = (View(_features), View(_thresholds), Outputs(_gradient, _loss));
            return new(
                "IndicatorCalibration.PinballStep",
                () => IndicatorCalibration.PinballStep(features, Rate, 0, thresholds, outputs, Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("gradient by hand", () =>
        {
            Tensor x = _features.add(_thresholds);
            Tensor active = x.gt(0);
            _ = active.sum(0L);
            Tensor below = x.lt(0);
            _ = below.to_type(torch.float32).mean([0L]).mul_(-1).add_(1 - Rate).mul_(1.0 / tasks); // ∂loss/∂b
            _ = torch.maximum(x.mul(1 - Rate), x.mul_(-Rate)).mean();
        }),
        Arm("maximum, autograd", () =>
        {
            Tensor x = _features.add(_leaf);
            using (torch.no_grad()) _ = x.gt(0).sum(0L);
            torch.maximum(x.mul(1 - Rate), x.mul(-Rate)).mean().backward();
            _leaf.grad = null;
        }),
    ];

    public override CaseArm Published => Arm("pvn/indicator_functions.py, autograd", () =>
    {
        Tensor x = _features + _leaf;
        Tensor active = (x > 0).to_type(torch.float32).detach();
        _ = active.sum(0L);
        (x * (1 - Rate - (x < 0).to_type(torch.float32))).mean().backward();
        _leaf.grad = null;
    });

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor expected = torch.zeros(tasks), expectedLoss = torch.zeros(1, torch.float64);
        Tensor bits = _bits.clone(), counts = _counts.clone();
        Ours.Run();
        IndicatorCalibration.PinballStep(
            View(_features), Rate, 0, View(_thresholds),
            new PinballViews { Gradient = View(expected), Loss = View(expectedLoss), Bits = View(bits), ActiveCounts = View(counts) },
            AuxBackend.Reference);
        if (!bits.eq(_bits).all().item<bool>() || !counts.eq(_counts).all().item<bool>())
            throw new VerificationException("bits or counts differ from the reference");
        _ = Within(1e-6, "of the loss", Math.Abs(_loss.item<double>() / expectedLoss.item<double>() - 1));
        return Within(1, "ulps", (_gradient - expected).abs().max().item<float>() * tasks * Math.Pow(2, 23));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(IndicatorCalibration.IsSupported(backend, out string reason), nameof(IndicatorCalibration), backend, reason);

    protected override void Allocate(int seed)
    {
        _features = Keep(torch.randn(rows, tasks));
        _thresholds = Keep(torch.randn(tasks).mul_(0.1).sub_(1.65));
        _leaf = Keep(_thresholds.clone().requires_grad_());
        _gradient = Keep(torch.zeros(tasks));
        _loss = Keep(torch.zeros(1, torch.float64));
        _bits = Keep(torch.zeros(rows, Indicators.BytesPerState(tasks), torch.uint8));
        _counts = Keep(torch.zeros(tasks, torch.int32));
    }

    private PinballViews Outputs(Tensor gradient, Tensor loss) =>
        new() { Gradient = View(gradient), Loss = View(loss), Bits = View(_bits), ActiveCounts = View(_counts) };
}

/// <summary>Exact thresholds. Errors: tasks whose threshold is another than the reference's.</summary>
internal sealed class QuantileCase(string name, string description, int rows, int tasks) : SuccessorCase(name, description)
{
    private const double Rate = 0.01;

    private Tensor _features = null!, _thresholds = null!, _counts = null!;

    private int Wanted => (int)Math.Floor(Rate * rows + 0.5);

    public override long Bytes => (long)rows * tasks * sizeof(float) + 8L * tasks;

    public override CaseArm Ours
    {
        get
        {
            var (features, thresholds, counts) = (View(_features), View(_thresholds), View(_counts));
            return new(
                "IndicatorCalibration.Quantile", () => IndicatorCalibration.Quantile(features, Rate, thresholds, counts, Backend));
        }
    }

    // libtorch's quantile is sort and a weighted mean of neighbours; these give the very element.
    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("topk", () => _ = _features.t().contiguous().topk(Wanted + 1, 1, true, true)),
        ArmWithoutGrad("kthvalue", () => _ = torch.kthvalue(_features, rows - Wanted, 0)),
        ArmWithoutGrad("sort", () => _ = _features.sort(0)),
    ];

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor expected = torch.zeros(tasks), counts = torch.zeros(tasks, torch.int32);
        Ours.Run();
        IndicatorCalibration.Quantile(View(_features), Rate, View(expected), View(counts), AuxBackend.Reference);
        return Within(0, "thresholds or counts", (expected.ne(_thresholds).sum() + counts.ne(_counts).sum()).item<long>());
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(IndicatorCalibration.IsSupported(backend, out string reason), nameof(IndicatorCalibration), backend, reason);

    protected override void Allocate(int seed)
    {
        _features = Keep(torch.randn(rows, tasks));
        _thresholds = Keep(torch.zeros(tasks));
        _counts = Keep(torch.zeros(tasks, torch.int32));
    }
}
