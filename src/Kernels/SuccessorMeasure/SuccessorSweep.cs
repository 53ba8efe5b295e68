using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Which rows a sweep reads.</summary>
public enum SweepOrder
{
    /// <summary>All rows as they were before the sweep.</summary>
    Jacobi,

    /// <summary>
    /// Rows from the first to the last, each as it is by then: those before it new already. Needs no second table, and usually fewer
    /// sweeps.
    /// </summary>
    GaussSeidel,
}

/// <summary>
/// Expected updates of the successor measure of S states: M ← E + γ P M for all states at once, which has the measure as its fixed point
/// and comes γ times nearer each time. E is I for <see cref="Start.Current"/> and P for <see cref="Start.Next"/>, times 1 − γ for a
/// normalised measure.
/// </summary>
/// <remarks>
/// <para>Convergence. From M = 0, after k sweeps in Jacobi order, no row is further from the measure than γᵏ / (1 − γ), summed over the
/// row. <see cref="SuccessorSolve"/> gives the exact answer.</para>
/// <para>Arithmetic, in float32: the sum over a row of P in the order of its entries, by fused multiply-adds from zero, times γ, plus E.
/// Columns are on their own: neither threads nor vector width change a bit, and a NaN stays in its column. The methods of this class are
/// thread-safe, but for two calls on one table.</para>
/// </remarks>
public static partial class SuccessorSweep
{
    internal static readonly OpSupport Support = new(
        nameof(SuccessorSweep),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "expected sweeps are for small tables and for tests: ILGPU has no kernel for them"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Sweeps a table.</summary>
    /// <param name="transitions">P of S states.</param>
    /// <param name="measure">M [S, S], row-major, updated in place.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state counts first.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="sweeps">How many, at least 1.</param>
    /// <param name="order">Which rows a sweep reads.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The largest change of an element in the last sweep; NaN if there is one in the table.</returns>
    /// <exception cref="ArgumentException">The table is not [S, S]. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The discount, an enum, or the number of sweeps is out of its range.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe float Run(
        TransitionMatrix transitions, Span<float> measure, double discount, Start start, bool normalised, int sweeps = 1,
        SweepOrder order = SweepOrder.Jacobi, AuxBackend backend = AuxBackend.Auto)
    {
        ArgumentNullException.ThrowIfNull(transitions);
        CheckScalars(discount, start, sweeps, order);
        var states = transitions.StateCount;
        TensorArguments.RequireLength(nameof(measure), measure.Length, states, states, nameof(measure));
        backend = Support.Resolve(backend, AuxDevice.Host);
        var changes = new float[states];
        fixed (float* m = measure, change = changes)
        {
            var work = new SuccessorSweepWork
            {
                Transitions = transitions,
                Measure = m,
                Discount = discount,
                Start = start,
                Normalised = normalised,
                Sweeps = sweeps,
                Order = order,
                ColumnChanges = change,
            };
            Run(work, backend, AuxDevice.Host, 0);
        }

        return changes.Aggregate(MathF.Max); // which a NaN goes through
    }

    /// <summary>Sweeps a table in memory of any framework, on the host or on a device.</summary>
    /// <param name="transitions">P of S states; on a device, it is copied there and waited for on each call.</param>
    /// <param name="measure">M [S, S], float32, contiguous, updated in place.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state counts first.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="sweeps">How many, at least 1.</param>
    /// <param name="order">Which rows a sweep reads.</param>
    /// <param name="columnChanges">
    /// Float32 [S]: the largest change in each column in the last sweep. May be left out (a default view).
    /// </param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without.</param>
    /// <exception cref="ArgumentException">The table is not a contiguous float32 [S, S], devices do not fit, outputs overlap, or a stream
    /// of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The discount, an enum, or the number of sweeps is out of its range.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void Run(
        TransitionMatrix transitions, in TensorView measure, double discount, Start start, bool normalised, int sweeps = 1,
        SweepOrder order = SweepOrder.Jacobi, TensorView columnChanges = default, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(transitions);
        CheckScalars(discount, start, sweeps, order);
        long states = transitions.StateCount;
        var device = measure.Device;
        TensorArguments.Require(measure, nameof(measure), [DType.Float32], [states, states], device, nameof(measure));
        TensorArguments.RequireIfWanted(
            columnChanges, nameof(columnChanges), DType.Float32, [states], device, nameof(columnChanges));
        backend = Support.Resolve(backend, device);
        var on = CudaStream.HandleOn(stream, device, nameof(stream));
        var work = new SuccessorSweepWork
        {
            Transitions = transitions,
            Measure = (float*)measure.Address,
            Discount = discount,
            Start = start,
            Normalised = normalised,
            Sweeps = sweeps,
            Order = order,
            ColumnChanges = (float*)columnChanges.Address,
        };
        Run(work, backend, device, on);
        TensorArguments.KeepAlive(measure.Owner, columnChanges.Owner, stream);
    }

    /// <summary>The op's one entry below the checks.</summary>
    private static void Run(in SuccessorSweepWork work, AuxBackend backend, AuxDevice device, nint stream)
    {
        work.RequireDisjoint();
        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(work);
                break;
            case AuxBackend.Reference:
                RunReference(work);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(SuccessorSweep), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    private static void CheckScalars(double discount, Start start, int sweeps, SweepOrder order)
    {
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        TensorArguments.RequireAtLeastOne(nameof(sweeps), sweeps);
        if (order is not (SweepOrder.Jacobi or SweepOrder.GaussSeidel))
            throw new ArgumentOutOfRangeException(nameof(order), order, "Not a SweepOrder.");
    }
}

/// <summary>What one call of <see cref="SuccessorSweep"/> works on: checked addresses, which do not move while the call runs.</summary>
internal readonly unsafe struct SuccessorSweepWork
{
    public required TransitionMatrix Transitions { get; init; }

    public required float* Measure { get; init; }

    public required double Discount { get; init; }

    public required Start Start { get; init; }

    public required bool Normalised { get; init; }

    public required int Sweeps { get; init; }

    public required SweepOrder Order { get; init; }

    /// <summary>Null where it is not wanted.</summary>
    public required float* ColumnChanges { get; init; }

    public int States => Transitions.StateCount;

    public void RequireDisjoint() => TensorArguments.RequireDisjoint(
        NamedMemory.Written("measure", Measure, (long)States * States * sizeof(float)),
        NamedMemory.Written("columnChanges", ColumnChanges, ColumnChanges == null ? 0 : States * 4L));
}
