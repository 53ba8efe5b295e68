using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Makes sets of states out of random features: set t holds the states whose feature plus threshold is positive, r = 1[f + b &gt; 0], with
/// the threshold such that it holds a wanted share of them. These are the random network indicators of proto-value networks (Farebrother et
/// al. 2023, arXiv 2304.12567; google-research, <c>pvn/indicator_functions.py</c>).
/// </summary>
/// <remarks>
/// <para>Three entries. <c>Quantile</c> finds the thresholds from a sample of states, exactly. <c>Pack</c> writes the indicators as bits,
/// which is all that training needs once the thresholds are fixed: 13 bytes a state for 100 tasks. <c>PinballStep</c> moves the thresholds
/// along the gradient of the pinball loss, mean x · ((1 − p) − 1[x &lt; 0]) over x = f + b, which has the (1 − p)-quantile as its
/// minimum.</para>
/// <para>NaN. A NaN feature makes the exact threshold of its task NaN, and so its indicators and every loss that they enter; its bit is 0,
/// its count −1, and the report names the task. A pinball step of such a task has a NaN gradient. Infinite features are ordered as numbers;
/// where the threshold itself would be infinite, it is NaN, because ∞ − ∞ is. The methods of this class are thread-safe.</para>
/// </remarks>
public static partial class IndicatorCalibration
{
    internal static readonly OpSupport Support = new(
        nameof(IndicatorCalibration),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "calibration runs once, before training: ILGPU has no kernel for it"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>
    /// Finds each task's exact threshold. With k = rate · N rounded to the nearest whole number (halves up), −b is the (k + 1)-th largest
    /// feature: k of the N states are in the set, fewer where ties straddle that place, because states at the threshold are not in it.
    /// </summary>
    /// <param name="features">[N, T], row-major: a sample of states.</param>
    /// <param name="tasks">T.</param>
    /// <param name="rate">The wanted share, within (0, 1).</param>
    /// <param name="thresholds">[T]: b. Shares memory with nothing else.</param>
    /// <param name="activeCounts">[T]: how many of the N states are in each set; −1 with a NaN. Empty where it is not wanted.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, the rate rounds to no state or to all of them, or an output overlaps
    /// something. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The rate is NaN or outside (0, 1), or N or T is below 1.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static IndicatorReport Quantile(
        ReadOnlySpan<float> features, int tasks, double rate, Span<float> thresholds, Span<int> activeCounts = default,
        AuxBackend backend = AuxBackend.Auto) =>
        QuantileSpans(features, tasks, rate, thresholds, activeCounts, backend);

    /// <inheritdoc cref="Quantile(ReadOnlySpan{float}, int, double, Span{float}, Span{int}, AuxBackend)"/>
    public static IndicatorReport Quantile(
        ReadOnlySpan<BFloat16> features, int tasks, double rate, Span<float> thresholds, Span<int> activeCounts = default,
        AuxBackend backend = AuxBackend.Auto) =>
        QuantileSpans(features, tasks, rate, thresholds, activeCounts, backend);

    /// <summary>Writes the indicators of N states as bits.</summary>
    /// <param name="features">[N, T], row-major.</param>
    /// <param name="thresholds">[T].</param>
    /// <param name="bits">
    /// [N, <see cref="Indicators.BytesPerState"/>(T)]: state n's indicator of task t is bit t mod 8 of byte t / 8 of row n; bits behind the
    /// last task are 0.
    /// </param>
    /// <param name="activeCounts">[T]: how many of the N states are in each set; −1 with a NaN. Empty where it is not wanted.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, or an output overlaps something. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">N or T is below 1.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static IndicatorReport Pack(
        ReadOnlySpan<float> features, ReadOnlySpan<float> thresholds, Span<byte> bits, Span<int> activeCounts = default,
        AuxBackend backend = AuxBackend.Auto) =>
        PackSpans(features, thresholds, bits, activeCounts, backend);

    /// <inheritdoc cref="Pack(ReadOnlySpan{float}, ReadOnlySpan{float}, Span{byte}, Span{int}, AuxBackend)"/>
    public static IndicatorReport Pack(
        ReadOnlySpan<BFloat16> features, ReadOnlySpan<float> thresholds, Span<byte> bits, Span<int> activeCounts = default,
        AuxBackend backend = AuxBackend.Auto) =>
        PackSpans(features, thresholds, bits, activeCounts, backend);

    /// <summary>
    /// One gradient step on the pinball loss, and in the same pass the batch's indicators: ∂loss/∂b = ((1 − p) − share of x &lt; 0) / T,
    /// b ← b − learningRate · ∂loss/∂b. Loss, bits and counts are those of the thresholds before the step.
    /// </summary>
    /// <param name="features">[B, T], row-major.</param>
    /// <param name="rate">p, the wanted share, within (0, 1).</param>
    /// <param name="learningRate">At least 0; with 0 the thresholds stay, for a caller whose optimiser makes the step.</param>
    /// <param name="thresholds">[T]: b, updated in place.</param>
    /// <param name="outputs">More outputs, each of them optional.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The loss; NaN if any of it is.</returns>
    /// <exception cref="ArgumentException">Lengths do not fit, or an output overlaps something. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// The rate is NaN or outside (0, 1), the learning rate is negative or not finite, or B or T is below 1.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static double PinballStep(
        ReadOnlySpan<float> features, double rate, double learningRate, Span<float> thresholds, PinballOutputs outputs = default,
        AuxBackend backend = AuxBackend.Auto) =>
        PinballSpans(features, rate, learningRate, thresholds, outputs, backend);

    /// <inheritdoc cref="PinballStep(ReadOnlySpan{float}, double, double, Span{float}, PinballOutputs, AuxBackend)"/>
    public static double PinballStep(
        ReadOnlySpan<BFloat16> features, double rate, double learningRate, Span<float> thresholds, PinballOutputs outputs = default,
        AuxBackend backend = AuxBackend.Auto) =>
        PinballSpans(features, rate, learningRate, thresholds, outputs, backend);

    /// <summary>The op's one entry below the checks.</summary>
    private static void Run(in IndicatorCalibrationWork work, AuxBackend backend, AuxDevice device, nint stream)
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
                throw new BackendUnavailableException(nameof(IndicatorCalibration), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    private static unsafe IndicatorReport QuantileSpans<T>(
        ReadOnlySpan<T> features, int tasks, double rate, Span<float> thresholds, Span<int> activeCounts, AuxBackend backend)
        where T : unmanaged
    {
        CheckRate(rate);
        var rows = RequireRows(features.Length, tasks);
        RequireActive(rate, rows, nameof(features));
        TensorArguments.RequireLength(nameof(thresholds), thresholds.Length, tasks, nameof(thresholds));
        TensorArguments.RequireEmptyOrLength(nameof(activeCounts), activeCounts.Length, tasks, nameof(activeCounts));
        backend = Support.Resolve(backend, AuxDevice.Host);
        var counts = activeCounts.IsEmpty ? new int[tasks] : activeCounts;
        fixed (T* f = features)
        fixed (float* b = thresholds)
        fixed (int* active = counts)
        {
            var work = new IndicatorCalibrationWork
            {
                Entry = CalibrationEntry.Quantile,
                Rows = rows,
                Tasks = tasks,
                Rate = rate,
                FeatureType = DTypes.Of<T>(),
                Features = f,
                Thresholds = b,
                ActiveCounts = active,
            };
            Run(work, backend, AuxDevice.Host, 0);
        }

        return IndicatorReport.Of(counts, rows);
    }

    private static unsafe IndicatorReport PackSpans<T>(
        ReadOnlySpan<T> features, ReadOnlySpan<float> thresholds, Span<byte> bits, Span<int> activeCounts, AuxBackend backend)
        where T : unmanaged
    {
        var tasks = thresholds.Length;
        var rows = RequireRows(features.Length, tasks);
        TensorArguments.RequireLength(nameof(bits), bits.Length, rows, Indicators.BytesPerState(tasks), nameof(bits));
        TensorArguments.RequireEmptyOrLength(nameof(activeCounts), activeCounts.Length, tasks, nameof(activeCounts));
        backend = Support.Resolve(backend, AuxDevice.Host);
        var counts = activeCounts.IsEmpty ? new int[tasks] : activeCounts;
        fixed (T* f = features)
        fixed (float* b = thresholds)
        fixed (byte* packed = bits)
        fixed (int* active = counts)
        {
            var work = new IndicatorCalibrationWork
            {
                Entry = CalibrationEntry.Pack,
                Rows = rows,
                Tasks = tasks,
                FeatureType = DTypes.Of<T>(),
                Features = f,
                Thresholds = b,
                Bits = packed,
                ActiveCounts = active,
            };
            Run(work, backend, AuxDevice.Host, 0);
        }

        return IndicatorReport.Of(counts, rows);
    }

    private static unsafe double PinballSpans<T>(
        ReadOnlySpan<T> features, double rate, double learningRate, Span<float> thresholds, PinballOutputs outputs, AuxBackend backend)
        where T : unmanaged
    {
        CheckRate(rate);
        CheckLearningRate(learningRate);
        var tasks = thresholds.Length;
        var rows = RequireRows(features.Length, tasks);
        outputs.Check(rows, tasks);
        backend = Support.Resolve(backend, AuxDevice.Host);
        double loss;
        fixed (T* f = features)
        fixed (float* b = thresholds, gradient = outputs.Gradient)
        fixed (byte* bits = outputs.Bits)
        fixed (int* active = outputs.ActiveCounts)
        {
            var work = new IndicatorCalibrationWork
            {
                Entry = CalibrationEntry.Pinball,
                Rows = rows,
                Tasks = tasks,
                Rate = rate,
                LearningRate = learningRate,
                FeatureType = DTypes.Of<T>(),
                Features = f,
                Thresholds = b,
                Bits = bits,
                ActiveCounts = active,
                Gradient = gradient,
                Loss = &loss,
            };
            Run(work, backend, AuxDevice.Host, 0);
        }

        return loss;
    }

    private static void CheckRate(double rate)
    {
        if (!(rate > 0 && rate < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(rate), rate, "A rate lies within (0, 1).");
    }

    private static void CheckLearningRate(double learningRate)
    {
        if (!(learningRate >= 0 && double.IsFinite(learningRate)))
            throw new ArgumentOutOfRangeException(nameof(learningRate), learningRate, "A learning rate is finite and not negative.");
    }

    private static int RequireRows(int features, int tasks)
    {
        TensorArguments.RequireAtLeastOne("T", tasks);
        TensorArguments.RequireAtLeastOne("N", features);
        if (features % tasks != 0)
            throw new ArgumentException($"features: {features} elements do not make rows of {tasks} tasks", nameof(features));
        return features / tasks;
    }

    private static void RequireActive(double rate, long rows, string features)
    {
        var active = IndicatorCalibrationWork.Wanted(rate, rows);
        if (active < 1 || active >= rows)
            throw new ArgumentException(
                $"{features}: {rows} states are too few for a rate of {rate}, which rounds to {active} of them in a set", features);
    }
}
