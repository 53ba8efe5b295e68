using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="SuccessorSweep"/>.</summary>
internal static class SuccessorSweepBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new SuccessorSweepCase("sweep-104x100", "100 expected sweeps of the table of four rooms", 100),
    ];
}

/// <summary>Expected sweeps in Jacobi order. Errors relative to the largest element.</summary>
internal sealed class SuccessorSweepCase(string name, string description, int sweeps) : SuccessorCase(name, description)
{
    private const double Discount = 0.9, Tolerance = 1e-5;
    private const int States = FourRooms.States;

    private readonly TransitionMatrix _transitions = TransitionMatrix.FromDense(FourRooms.World.Transitions(), States);
    private Tensor _measure = null!, _baseline = null!, _dense = null!, _identity = null!, _sparse = null!;

    public override long Bytes => 2L * sweeps * States * States * sizeof(float);

    public override CaseArm Ours
    {
        get
        {
            TensorView measure = View(_measure);
            return new("SuccessorSweep.Run", () => SuccessorSweep.Run(
                _transitions, measure, Discount, Start.Current, false, sweeps, backend: Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates =>
    [
        ArmWithoutGrad("addmm, dense", () =>
        {
            Tensor table = _baseline;
            for (int i = 0; i < sweeps; i++) table = torch.addmm(_identity, _dense, table, 1, (float)Discount);
            _baseline.copy_(table);
        }),
        ArmWithoutGrad("sparse product", () =>
        {
            Tensor table = _baseline;
            for (int i = 0; i < sweeps; i++) table = _sparse.mm(table).mul_(Discount).add_(_identity);
            _baseline.copy_(table);
        }),
    ];

    public override double Verify()
    {
        var expected = new float[States * States];
        _measure.fill_(0);
        Ours.Run();
        SuccessorSweep.Run(_transitions, expected, Discount, Start.Current, false, sweeps, backend: AuxBackend.Reference);
        using Tensor reference = torch.tensor(expected).view(States, States);
        return Within(Tolerance, "of the largest element", RelativeToLargest(_measure, reference));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(SuccessorSweep.IsSupported(backend, out string reason), nameof(SuccessorSweep), backend, reason);

    protected override void Allocate(int seed)
    {
        _measure = Keep(torch.zeros(States, States));
        _baseline = Keep(torch.zeros(States, States));
        _dense = Keep(torch.tensor(FourRooms.World.Transitions()).view(States, States).to_type(torch.float32));
        _identity = Keep(torch.eye(States));
        _sparse = Keep(_dense.to_sparse());
    }
}
