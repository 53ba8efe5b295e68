using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Cases;

/// <summary>The cases of <see cref="TabularTd"/>.</summary>
internal static class TabularTdBenchmarks
{
    /// <summary>The cases in the order of the report.</summary>
    public static IReadOnlyList<Func<KernelCase>> All { get; } =
    [
        () => new TabularTdCase(
            "tabular-4096x104", "4,096 transitions of a walk through four rooms, one after the other", 4096, TransitionOrder.Sequential),
        () => new TabularTdCase(
            "tabular-4096x104-snapshot", "the same, reading next rows as before the batch", 4096, TransitionOrder.Snapshot),
    ];
}

/// <summary>
/// A batch of transitions on a table. In sequence, libtorch has to take them one by one as well. From a snapshot, the batch is one linear
/// map, M ← (D + γ C) M + diag(c); the baseline is given its coefficients ready-made. Errors relative to the largest element.
/// </summary>
internal sealed class TabularTdCase(string name, string description, int transitions, TransitionOrder order)
    : SuccessorCase(name, description)
{
    private const double Discount = 0.9, StepSize = 0.1, Tolerance = 2e-6;
    private const int States = FourRooms.States;

    private readonly bool[] _done = new bool[transitions];
    private int[] _current = [], _next = [];
    private Tensor _measure = null!, _baseline = null!, _map = null!, _diagonal = null!, _weights = null!, _decay = null!;
    private Tensor _currentStates = null!, _nextStates = null!, _currentIndex = null!, _nextIndex = null!;
    private Tensor[] _rows = [], _cells = [];

    public override long Bytes => 3L * transitions * States * sizeof(float);

    public override bool InPlace => true;

    public override CaseArm Ours
    {
        get
        {
            TensorView measure = View(_measure), current = View(_currentStates), next = View(_nextStates);
            TensorView done = View(Keep(torch.zeros(transitions, torch.@bool)));
            return new("TabularTd.Run", () => TabularTd.Run(
                measure, current, next, done, StepSize, Discount, Start.Current, false, order, backend: Backend));
        }
    }

    public override IReadOnlyList<CaseArm> BestCandidates => order == TransitionOrder.Sequential
        ? [ArmWithoutGrad("mul_().add_() per transition", OneByOne)]
        :
        [
            ArmWithoutGrad("one matrix product, coefficients given", () =>
            {
                _baseline.copy_(_map.mm(_baseline));
                _baseline.diagonal().add_(_diagonal);
            }),
            ArmWithoutGrad("index_add_, coefficients given", () =>
            {
                Tensor targets = _baseline.index_select(0, _nextIndex).mul_(_weights);
                _baseline.mul_(_decay).index_add_(0, _currentIndex, targets, 1);
                _baseline.diagonal().add_(_diagonal);
            }),
        ];

    public override double Verify()
    {
        using var scope = torch.NewDisposeScope();
        Tensor before = _measure.clone();
        float[] table = before.data<float>().ToArray();
        Ours.Run();
        TabularTd.Run(
            table, States, _current, _next, _done, StepSize, Discount, Start.Current, false, order, AuxBackend.Reference);
        Tensor expected = torch.tensor(table).view(States, States);
        foreach (CaseArm arm in BestCandidates)
        {
            _baseline.copy_(before);
            arm.Run();
            _ = Within(1e-4, $"of the largest element ({arm.Name})", RelativeToLargest(_baseline, expected));
        }

        return Within(Tolerance, "of the largest element", RelativeToLargest(_measure, expected));
    }

    protected override void RequireSupport(AuxBackend backend) =>
        Require(TabularTd.IsSupported(backend, out string reason), nameof(TabularTd), backend, reason);

    protected override void Allocate(int seed)
    {
        var walk = new ReplayBuffer(transitions, seed);
        walk.Collect(new TabularEnvironment(FourRooms.World, count: 1, seed, timeLimit: 50), transitions);
        (_current, _next) = ([.. walk.States], [.. walk.NextStates]);
        _measure = Keep(torch.rand(States, States));
        _baseline = Keep(_measure.clone());
        _currentStates = Keep(torch.tensor(_current));
        _nextStates = Keep(torch.tensor(_next));
        _currentIndex = Keep(_currentStates.to_type(torch.int64)); // libtorch indexes with int64
        _nextIndex = Keep(_nextStates.to_type(torch.int64));
        _rows = [.. Enumerable.Range(0, States).Select(s => Keep(_baseline[s]))];
        _cells = [.. Enumerable.Range(0, States).Select(s => Keep(_baseline[s, s]))];
        Coefficients();
    }

    private void OneByOne()
    {
        Scalar keep = 1 - StepSize, own = 1 - StepSize + StepSize * Discount, ahead = StepSize * Discount, counted = StepSize;
        for (int i = 0; i < _current.Length; i++)
        {
            Tensor row = _rows[_current[i]];
            if (_current[i] == _next[i]) row.mul_(own);
            else row.mul_(keep).add_(_rows[_next[i]], ahead);
            _cells[_current[i]].add_(counted);
        }
    }

    // A state's last visit has the weight α, the one before α (1 − α), …; what the table held keeps (1 − α) to the number of visits.
    private void Coefficients()
    {
        var (weights, decay, map, diagonal) = (new float[transitions], new float[States], new float[States, States], new float[States]);
        Array.Fill(decay, 1);
        for (int i = transitions - 1; i >= 0; i--)
        {
            int s = _current[i];
            weights[i] = (float)(StepSize * decay[s] * Discount);
            diagonal[s] += (float)(StepSize * decay[s]);
            map[s, _next[i]] += weights[i];
            decay[s] *= (float)(1 - StepSize);
        }

        for (int s = 0; s < States; s++) map[s, s] += decay[s];
        _weights = Keep(torch.tensor(weights).unsqueeze(1));
        _decay = Keep(torch.tensor(decay).unsqueeze(1));
        _map = Keep(torch.tensor(map));
        _diagonal = Keep(torch.tensor(diagonal));
    }
}
