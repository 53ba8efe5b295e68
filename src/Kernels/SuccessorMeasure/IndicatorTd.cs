using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Temporal-difference learning of the successor measure of T sets of states, in one pass: indicator, target, error, loss and gradient.
/// For transitions s → s′ and predictions Q of the actions that were taken,
/// y = r + γ (1 − done) Q̄, δ = Q − y, loss = mean ½ δ², ∂loss/∂Q = δ / (B T).
/// This is the loss of proto-value networks (Farebrother et al. 2023, arXiv 2304.12567; google-research, <c>pvn/offline.py</c>).
/// </summary>
/// <remarks>
/// <para>Q̄ [B, T] are the target network's values of the next state, averaged over actions already, which is the value under the uniform
/// policy; for the values themselves see PvnHead. r is 1 where the state is in the set, or 1 − γ for a normalised measure.
/// <see cref="Start"/> names the state that the indicators are of: s for <see cref="Start.Current"/>, s′ for <see cref="Start.Next"/>.
/// The arithmetic is the same; a terminal transition counts the set and does not read Q̄.</para>
/// <para>Arithmetic. y ← fma(γ, Q̄, r), δ ← Q − y, gradient ← δ · (1 / (B T)), in float32 from exactly widened inputs; squares and sums in
/// float64, in an order that depends on neither threads nor vector width. The negative of δ is the textbook's TD error.</para>
/// <para>A NaN in a prediction, a feature, a threshold, or a next value of a transition that is not terminal, gives a NaN error, gradient
/// and loss, and a negative active count. <see cref="CheckFinite(ReadOnlySpan{float}, ReadOnlySpan{float}, ReadOnlySpan{bool}, Indicators,
/// int)"/> then names the tensor and the row. The methods of this class are thread-safe.</para>
/// </remarks>
public static partial class IndicatorTd
{
    internal static readonly OpSupport Support = new(
        nameof(IndicatorTd),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>One batch in float32.</summary>
    /// <param name="prediction">Q [B, T], row-major.</param>
    /// <param name="nextValues">Q̄ [B, T]; rows of terminal transitions are not read.</param>
    /// <param name="done">[B]: whether the transition is terminal. Its length is B.</param>
    /// <param name="indicators">The sets, for B states and T tasks.</param>
    /// <param name="tasks">T.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state's indicators were given.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="gradient">∂loss/∂Q [B, T], or empty where it is not wanted. Shares memory with nothing else.</param>
    /// <param name="statistics">More outputs, each of them optional.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The loss; NaN if any of it is.</returns>
    /// <exception cref="ArgumentException">Lengths do not fit, or an output overlaps something. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// <paramref name="discount"/> is NaN or outside [0, 1), <paramref name="start"/> is no Start, or B or T is below 1. Nothing was
    /// written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static double Run(
        ReadOnlySpan<float> prediction, ReadOnlySpan<float> nextValues, ReadOnlySpan<bool> done, Indicators indicators, int tasks,
        double discount, Start start, bool normalised, Span<float> gradient, TdStatistics statistics = default,
        AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(prediction, nextValues, done, indicators, tasks, discount, start, normalised, gradient, statistics, backend);

    /// <summary>One batch of bfloat16 predictions and next values, widened exactly; the gradient is float32.</summary>
    /// <inheritdoc cref="Run(ReadOnlySpan{float}, ReadOnlySpan{float}, ReadOnlySpan{bool}, Indicators, int, double, Start, bool,
    /// Span{float}, TdStatistics, AuxBackend)"/>
    public static double Run(
        ReadOnlySpan<BFloat16> prediction, ReadOnlySpan<BFloat16> nextValues, ReadOnlySpan<bool> done, Indicators indicators, int tasks,
        double discount, Start start, bool normalised, Span<float> gradient, TdStatistics statistics = default,
        AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(prediction, nextValues, done, indicators, tasks, discount, start, normalised, gradient, statistics, backend);

    /// <summary>One batch in memory of any framework, on the host or on a device.</summary>
    /// <param name="prediction">Q [B, T], float32 or bfloat16, contiguous.</param>
    /// <param name="nextValues">Q̄ [B, T], of the prediction's dtype, contiguous; rows of terminal transitions are not read.</param>
    /// <param name="done">[B], bool or uint8: not 0 where the transition is terminal.</param>
    /// <param name="indicators">The sets, for B states and T tasks.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state's indicators were given.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="outputs">What is wanted.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Ranks, shapes, dtypes or devices do not fit, a tensor is not contiguous, an output overlaps
    /// something, no output is wanted, or a stream of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// <paramref name="discount"/> is NaN or outside [0, 1), <paramref name="start"/> is no Start, or B or T is below 1. Nothing was
    /// written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void Run(
        in TensorView prediction, in TensorView nextValues, in TensorView done, in IndicatorViews indicators,
        double discount, Start start, bool normalised, in TdOutputs outputs,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        var (rows, tasks) = RequireInputs(prediction, nextValues, done, indicators);
        var device = prediction.Device;
        outputs.Check(rows, tasks, device);
        backend = Support.Resolve(backend, device);
        var on = CudaStream.HandleOn(stream, device, nameof(stream));

        var work = new IndicatorTdWork
        {
            Rows = rows,
            Tasks = (int)tasks,
            Discount = discount,
            Normalised = normalised,
            ValueType = prediction.DType,
            Prediction = (void*)prediction.Address,
            NextValues = (void*)nextValues.Address,
            Done = (byte*)done.Address,
            FeatureType = indicators.IsPacked ? DType.UInt8 : indicators.Data.DType,
            Features = (void*)indicators.Data.Address,
            Thresholds = (float*)indicators.Thresholds.Address,
            Gradient = (float*)outputs.Gradient.Address,
            Loss = (double*)outputs.Loss.Address,
            RowLosses = (double*)outputs.RowLosses.Address,
            ActiveCounts = (int*)outputs.ActiveCounts.Address,
            MeanAbsoluteErrors = (float*)outputs.MeanAbsoluteErrors.Address,
        };
        Run(work, backend, device, on);
        indicators.KeepAlive();
        outputs.KeepAlive();
        TensorArguments.KeepAlive(prediction.Owner, nextValues.Owner, done.Owner, stream);
    }

    /// <summary>The op's one entry below the checks.</summary>
    /// <param name="work">What to do, checked but for overlap.</param>
    /// <param name="backend">Resolved: not Auto.</param>
    /// <param name="device">Where the memory is.</param>
    /// <param name="stream">The CUstream, 0 for the default one.</param>
    private static void Run(in IndicatorTdWork work, AuxBackend backend, AuxDevice device, nint stream)
    {
        work.RequireDisjoint();
        switch (backend)
        {
            case AuxBackend.Cpu or AuxBackend.Reference:
                RunChecked(work, backend);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, device, stream);
                break;
            case AuxBackend.Ilgpu when IlgpuShim.IsSupported:
                RunIlgpu(work, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(IndicatorTd), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    /// <summary>
    /// Host memory without a check for overlap: <see cref="PvnHead"/> writes the gradient where the prediction is, which is read first.
    /// </summary>
    internal static void RunChecked(in IndicatorTdWork work, AuxBackend backend)
    {
        if (backend == AuxBackend.Reference)
            RunReference(work);
        else
            RunCpu(work);
    }

    /// <summary>
    /// The overloads' common part. The order is empty, or a permutation: for each row of predictions and gradient the row of everything
    /// else.
    /// </summary>
    internal static unsafe double RunSpans<T>(
        ReadOnlySpan<T> prediction, ReadOnlySpan<T> nextValues, ReadOnlySpan<bool> done, Indicators indicators, int tasks,
        double discount, Start start, bool normalised, Span<float> gradient, TdStatistics statistics, AuxBackend backend,
        ReadOnlySpan<int> order = default)
        where T : unmanaged
    {
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        var rows = done.Length;
        RequireInputs(prediction.Length, nextValues.Length, rows, indicators, tasks);
        if (!gradient.IsEmpty)
            TensorArguments.RequireLength(nameof(gradient), gradient.Length, rows, tasks, nameof(gradient));
        statistics.Check(rows, tasks);
        backend = Support.Resolve(backend, AuxDevice.Host);

        double loss;
        fixed (T* q = prediction, next = nextValues)
        fixed (bool* ended = done)
        fixed (float* features = indicators.Features, thresholds = indicators.Thresholds, g = gradient)
        fixed (BFloat16* narrow = indicators.NarrowFeatures)
        fixed (byte* bits = indicators.Bits)
        fixed (double* rowLosses = statistics.RowLosses)
        fixed (int* counts = statistics.ActiveCounts, rowOrder = order)
        fixed (float* errors = statistics.MeanAbsoluteErrors)
        {
            var work = new IndicatorTdWork
            {
                Rows = rows,
                Tasks = tasks,
                Discount = discount,
                Normalised = normalised,
                ValueType = DTypes.Of<T>(),
                Prediction = q,
                NextValues = next,
                Done = (byte*)ended,
                FeatureType = indicators.ElementType,
                Features = indicators.Pick(features, narrow, bits),
                Thresholds = thresholds,
                Gradient = g,
                Loss = &loss,
                RowLosses = rowLosses,
                ActiveCounts = counts,
                MeanAbsoluteErrors = errors,
                Order = rowOrder,
            };
            Run(work, backend, AuxDevice.Host, 0);
        }

        return loss;
    }

    private static void RequireInputs(int prediction, int nextValues, int rows, Indicators indicators, int tasks)
    {
        RequireSizes(rows, tasks);
        TensorArguments.RequireLength(nameof(prediction), prediction, rows, tasks, nameof(prediction));
        TensorArguments.RequireLength(nameof(nextValues), nextValues, rows, tasks, nameof(nextValues));
        indicators.Check(rows, tasks);
    }

    private static (long Rows, long Tasks) RequireInputs(
        in TensorView prediction, in TensorView nextValues, in TensorView done, in IndicatorViews indicators)
    {
        var (rows, tasks) = TensorArguments.RequireMatrix(prediction, nameof(prediction));
        RequireSizes(rows, tasks);
        var device = prediction.Device;
        TensorArguments.Require(
            prediction, nameof(prediction), [DType.Float32, DType.BFloat16], [rows, tasks], device, nameof(prediction));
        TensorArguments.Require(nextValues, nameof(nextValues), [prediction.DType], [rows, tasks], device, nameof(nextValues));
        TensorArguments.Require(done, nameof(done), [DType.Bool, DType.UInt8], [rows], device, nameof(done));
        indicators.Check(rows, tasks, device);
        return (rows, tasks);
    }

    private static void RequireSizes(long rows, long tasks)
    {
        TensorArguments.RequireAtLeastOne("B", rows);
        TensorArguments.RequireAtLeastOne("T", tasks);
        if (rows > int.MaxValue || tasks > int.MaxValue)
            throw new ArgumentException($"prediction: shape [{rows}, {tasks}] has a size beyond {int.MaxValue}");
    }
}
