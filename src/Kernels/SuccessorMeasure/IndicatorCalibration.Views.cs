using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorCalibration
{
    /// <summary>Finds each task's exact threshold, in memory of any framework.</summary>
    /// <param name="features">[N, T], float32 or bfloat16, contiguous: a sample of states.</param>
    /// <param name="rate">The wanted share, within (0, 1).</param>
    /// <param name="thresholds">[T], float32: b.</param>
    /// <param name="activeCounts">
    /// [T], int32: how many of the N states are in each set; −1 with a NaN. <see cref="IndicatorReport.Of"/> reads it. May be left out (a
    /// default view).
    /// </param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, a tensor is not contiguous, the rate rounds to no state or
    /// to all of them, an output overlaps something, or a stream of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The rate is NaN or outside (0, 1), or N or T is below 1.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void Quantile(
        in TensorView features, double rate, in TensorView thresholds, TensorView activeCounts = default,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        CheckRate(rate);
        var (rows, tasks) = RequireFeatures(features, thresholds);
        RequireActive(rate, rows, nameof(features));
        TensorArguments.RequireIfWanted(
            activeCounts, nameof(activeCounts), DType.Int32, [tasks], features.Device, nameof(activeCounts));
        var work = new IndicatorCalibrationWork
        {
            Entry = CalibrationEntry.Quantile,
            Rows = rows,
            Tasks = tasks,
            Rate = rate,
            FeatureType = features.DType,
            Features = (void*)features.Address,
            Thresholds = (float*)thresholds.Address,
            ActiveCounts = (int*)activeCounts.Address,
        };
        Run(work, features.Device, backend, stream);
        TensorArguments.KeepAlive(features.Owner, thresholds.Owner, activeCounts.Owner, stream);
    }

    /// <summary>Writes the indicators of N states as bits, in memory of any framework.</summary>
    /// <param name="features">[N, T], float32 or bfloat16, contiguous.</param>
    /// <param name="thresholds">[T], float32.</param>
    /// <param name="bits">[N, <see cref="Indicators.BytesPerState"/>(T)], uint8.</param>
    /// <param name="activeCounts">[T], int32: how many of the N states are in each set; −1 with a NaN. May be left out.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, a tensor is not contiguous, an output overlaps something,
    /// or a stream of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">N or T is below 1.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void Pack(
        in TensorView features, in TensorView thresholds, in TensorView bits, TensorView activeCounts = default,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        var (rows, tasks) = RequireFeatures(features, thresholds);
        TensorArguments.Require(
            bits, nameof(bits), [DType.UInt8], [rows, Indicators.BytesPerState(tasks)], features.Device, nameof(bits));
        TensorArguments.RequireIfWanted(
            activeCounts, nameof(activeCounts), DType.Int32, [tasks], features.Device, nameof(activeCounts));
        var work = new IndicatorCalibrationWork
        {
            Entry = CalibrationEntry.Pack,
            Rows = rows,
            Tasks = tasks,
            FeatureType = features.DType,
            Features = (void*)features.Address,
            Thresholds = (float*)thresholds.Address,
            Bits = (byte*)bits.Address,
            ActiveCounts = (int*)activeCounts.Address,
        };
        Run(work, features.Device, backend, stream);
        TensorArguments.KeepAlive(features.Owner, thresholds.Owner, bits.Owner, activeCounts.Owner, stream);
    }

    /// <summary>One gradient step on the pinball loss, in memory of any framework.</summary>
    /// <param name="features">[B, T], float32 or bfloat16, contiguous.</param>
    /// <param name="rate">p, the wanted share, within (0, 1).</param>
    /// <param name="learningRate">At least 0; with 0 the thresholds stay.</param>
    /// <param name="thresholds">[T], float32: b, updated in place.</param>
    /// <param name="outputs">More outputs, each of them optional.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, a tensor is not contiguous, an output overlaps something,
    /// or a stream of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// The rate is NaN or outside (0, 1), the learning rate is negative or not finite, or B or T is below 1.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void PinballStep(
        in TensorView features, double rate, double learningRate, in TensorView thresholds, in PinballViews outputs,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        CheckRate(rate);
        CheckLearningRate(learningRate);
        var (rows, tasks) = RequireFeatures(features, thresholds);
        outputs.Check(rows, tasks, features.Device);
        var work = new IndicatorCalibrationWork
        {
            Entry = CalibrationEntry.Pinball,
            Rows = rows,
            Tasks = tasks,
            Rate = rate,
            LearningRate = learningRate,
            FeatureType = features.DType,
            Features = (void*)features.Address,
            Thresholds = (float*)thresholds.Address,
            Bits = (byte*)outputs.Bits.Address,
            ActiveCounts = (int*)outputs.ActiveCounts.Address,
            Gradient = (float*)outputs.Gradient.Address,
            Loss = (double*)outputs.Loss.Address,
            TaskLosses = (double*)outputs.TaskLosses.Address,
        };
        Run(work, features.Device, backend, stream);
        outputs.KeepAlive();
        TensorArguments.KeepAlive(features.Owner, thresholds.Owner, stream);
    }

    private static void Run(in IndicatorCalibrationWork work, AuxDevice device, AuxBackend backend, CudaStream? stream) =>
        Run(work, Support.Resolve(backend, device), device, CudaStream.HandleOn(stream, device, nameof(stream)));

    private static (long Rows, int Tasks) RequireFeatures(in TensorView features, in TensorView thresholds)
    {
        var (rows, tasks) = TensorArguments.RequireMatrix(features, nameof(features));
        TensorArguments.RequireAtLeastOne("N", rows);
        TensorArguments.RequireAtLeastOne("T", tasks);
        if (rows > int.MaxValue || tasks > int.MaxValue)
            throw new ArgumentException($"features: shape [{rows}, {tasks}] has a size beyond {int.MaxValue}", nameof(features));
        TensorArguments.Require(
            features, nameof(features), [DType.Float32, DType.BFloat16], [rows, tasks], features.Device, nameof(features));
        TensorArguments.Require(thresholds, nameof(thresholds), [DType.Float32], [tasks], features.Device, nameof(thresholds));
        return (rows, (int)tasks);
    }
}
