using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Temporal-difference learning of the successor measure of S states as a table: for each transition s → s′ of a batch, in its order,
/// M[s] ← M[s] + α (e + γ (1 − done) M[s′] − M[s]), where e is 1 at s (<see cref="Start.Current"/>) or at s′ (<see cref="Start.Next"/>),
/// or 1 − γ there for a normalised measure, and 0 elsewhere (Dayan 1993; for M⁺, Blier, Tallec and Ollivier 2021, arXiv 2101.07123).
/// </summary>
/// <remarks>
/// <para>Arithmetic, for every element in float32: y ← fma(γ, M[s′], e), M[s] ← fma(α, y − M[s], M[s]). A terminal transition does not read
/// M[s′]. NaNs stay in the columns that they are in: a NaN in M[s′] goes to M[s].</para>
/// <para>The result depends on neither threads nor vector width: every column of the table is on its own, and the transitions of a column
/// are taken in order. The methods of this class are thread-safe, but for two calls on one table.</para>
/// </remarks>
public static partial class TabularTd
{
    internal static readonly OpSupport Support = new(
        nameof(TabularTd),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Updates a table with a batch of transitions, which may be empty.</summary>
    /// <param name="measure">M [S, S], row-major, updated in place. Shares memory with nothing else.</param>
    /// <param name="states">S.</param>
    /// <param name="current">[B]: s, each within [0, S).</param>
    /// <param name="next">[B]: s′, each within [0, S), those of terminal transitions too.</param>
    /// <param name="done">[B]: whether the transition is terminal.</param>
    /// <param name="stepSize">α, within [0, 1].</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state counts.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="order">What later transitions see of earlier ones.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, or the table overlaps something. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A state, the step size, the discount or an enum is out of its range, or S is below 1. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run(
        Span<float> measure, int states, ReadOnlySpan<int> current, ReadOnlySpan<int> next, ReadOnlySpan<bool> done,
        double stepSize, double discount, Start start, bool normalised, TransitionOrder order = TransitionOrder.Sequential,
        AuxBackend backend = AuxBackend.Auto)
    {
        CheckScalars(stepSize, discount, start, order);
        TensorArguments.RequireAtLeastOne(nameof(states), states);
        TensorArguments.RequireLength(nameof(measure), measure.Length, states, states, nameof(measure));
        TensorArguments.RequireLength(nameof(next), next.Length, current.Length, nameof(next));
        TensorArguments.RequireLength(nameof(done), done.Length, current.Length, nameof(done));
        TensorArguments.RequireIndices(current, states, nameof(current));
        TensorArguments.RequireIndices(next, states, nameof(next));
        backend = Support.Resolve(backend, AuxDevice.Host);
        fixed (float* m = measure)
        fixed (int* from = current, to = next)
        fixed (bool* ended = done)
        {
            var work = new TabularTdWork
            {
                States = states,
                Transitions = current.Length,
                Measure = m,
                Current = from,
                Next = to,
                Done = (byte*)ended,
                StepSize = stepSize,
                Discount = discount,
                Start = start,
                Normalised = normalised,
                Order = order,
            };
            Run(work, backend, AuxDevice.Host, 0);
        }
    }

    /// <summary>Updates a table in memory of any framework, on the host or on a device.</summary>
    /// <param name="measure">M [S, S], float32, contiguous, updated in place.</param>
    /// <param name="current">[B], int32: s.</param>
    /// <param name="next">[B], int32: s′.</param>
    /// <param name="done">[B], bool or uint8: not 0 where the transition is terminal.</param>
    /// <param name="stepSize">α, within [0, 1].</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state counts.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="order">What later transitions see of earlier ones.</param>
    /// <param name="scratch">
    /// Float32 [S, S] on the device, for <see cref="TransitionOrder.Snapshot"/> there; its contents become undefined. Else left out.
    /// </param>
    /// <param name="trustStates">
    /// States in host memory are checked always. On a device the check waits for the stream; true leaves it out, and a transition with a
    /// state out of range then is left out too, with its row of the table made NaN where s is in range.
    /// </param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, a tensor is not contiguous, the table overlaps something,
    /// scratch is missing, or a stream of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A state, the step size, the discount or an enum is out of its range, or S is below 1. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void Run(
        in TensorView measure, in TensorView current, in TensorView next, in TensorView done,
        double stepSize, double discount, Start start, bool normalised, TransitionOrder order = TransitionOrder.Sequential,
        TensorView scratch = default, bool trustStates = false, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        CheckScalars(stepSize, discount, start, order);
        var (states, columns) = TensorArguments.RequireMatrix(measure, nameof(measure));
        TensorArguments.RequireAtLeastOne(nameof(states), states);
        if (states != columns || states > int.MaxValue)
            throw new ArgumentException($"measure: {measure} is not a square of at most {int.MaxValue} states", nameof(measure));
        var device = measure.Device;
        TensorArguments.Require(measure, nameof(measure), [DType.Float32], [states, states], device, nameof(measure));
        if (current.Shape.Length != 1 || current.ElementCount > int.MaxValue)
            throw new ArgumentException($"current: {current} is not a vector of at most {int.MaxValue} states", nameof(current));
        var transitions = current.ElementCount;
        TensorArguments.Require(current, nameof(current), [DType.Int32], [transitions], device, nameof(current));
        TensorArguments.Require(next, nameof(next), [DType.Int32], [transitions], device, nameof(next));
        TensorArguments.Require(done, nameof(done), [DType.Bool, DType.UInt8], [transitions], device, nameof(done));
        backend = Support.Resolve(backend, device);
        var on = CudaStream.HandleOn(stream, device, nameof(stream));
        var onDevice = device.Kind != AuxDeviceKind.Host;
        if (onDevice && order == TransitionOrder.Snapshot)
            TensorArguments.Require(scratch, nameof(scratch), [DType.Float32], [states, states], device, nameof(scratch));

        var work = new TabularTdWork
        {
            States = (int)states,
            Transitions = (int)transitions,
            Measure = (float*)measure.Address,
            Current = (int*)current.Address,
            Next = (int*)next.Address,
            Done = (byte*)done.Address,
            StepSize = stepSize,
            Discount = discount,
            Start = start,
            Normalised = normalised,
            Order = order,
            Scratch = onDevice ? (float*)scratch.Address : null,
            TrustStates = trustStates,
        };
        if (!onDevice)
        {
            TensorArguments.RequireIndices(new(work.Current, work.Transitions), work.States, nameof(current));
            TensorArguments.RequireIndices(new(work.Next, work.Transitions), work.States, nameof(next));
        }

        Run(work, backend, device, on);
        TensorArguments.KeepAlive(measure.Owner, current.Owner, next.Owner, done.Owner, scratch.Owner, stream);
    }

    /// <summary>The op's one entry below the checks.</summary>
    private static void Run(in TabularTdWork work, AuxBackend backend, AuxDevice device, nint stream)
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
            case AuxBackend.Ilgpu when IlgpuShim.IsSupported:
                RunIlgpu(work, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(TabularTd), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    private static void CheckScalars(double stepSize, double discount, Start start, TransitionOrder order)
    {
        if (!(stepSize >= 0 && stepSize <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(stepSize), stepSize, "A step size lies within [0, 1].");
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        if (order is not (TransitionOrder.Sequential or TransitionOrder.Snapshot))
            throw new ArgumentOutOfRangeException(nameof(order), order, "Not a TransitionOrder.");
    }
}
