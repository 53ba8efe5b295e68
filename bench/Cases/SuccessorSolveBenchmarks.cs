using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="SuccessorSolve"/>.</summary>
internal static class SuccessorSolveBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new SuccessorSolveCase("solve-104", "the exact measure of four rooms, in float64"),
    ];
}

/// <summary>An exact solution. Errors relative to the largest element.</summary>
internal sealed class SuccessorSolveCase(string name, string description) : SuccessorCase(name, description)
{
    private const double Discount = 0.9, Tolerance = 1e-13;
    private const int States = FourRooms.States;

    private readonly TransitionMatrix _transitions = TransitionMatrix.FromDense(FourRooms.World.Transitions(), States);
    private readonly double[] _measure = new double[States * States];
    private Tensor _dense = null!, _identity = null!;

    public override string DType => "f64";

    public override long Bytes => 2L * States * States * sizeof(double);

    public override CaseArm Ours =>
        new("SuccessorSolve.Run", () => SuccessorSolve.Run(_transitions, Discount, Start.Current, false, _measure, Backend));

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("linalg.inv", () => torch.linalg.inv(System())),
        ArmWithoutGrad("linalg.solve", () => torch.linalg.solve(System(), _identity)),
    ];

    public override double Verify()
    {
        var expected = new double[States * States];
        Ours.Run();
        SuccessorSolve.Run(_transitions, Discount, Start.Current, false, expected, AuxBackend.Reference);
        return Within(Tolerance, "of the largest element", _measure.Zip(expected, (x, y) => Math.Abs(x - y)).Max() / expected.Max());
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(SuccessorSolve.IsSupported(backend, out string reason), nameof(SuccessorSolve), backend, reason);

    protected override void Allocate(int seed)
    {
        _dense = Keep(torch.tensor(FourRooms.World.Transitions()).view(States, States));
        _identity = Keep(torch.eye(States, dtype: torch.float64));
    }

    private Tensor System() => _dense.mul(-Discount).add_(_identity);
}
