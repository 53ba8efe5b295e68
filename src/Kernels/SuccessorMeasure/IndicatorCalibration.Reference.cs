using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorCalibration
{
    /// <summary>The definitions in the class's summary, task by task: by sorting, counting, and summing in double.</summary>
    private static unsafe void RunReference(in IndicatorCalibrationWork work)
    {
        if (work.Bits != null)
            new Span<byte>(work.Bits, checked((int)(work.Rows * work.BitBytes))).Clear();
        var loss = 0.0;
        for (var t = 0; t < work.Tasks; t++)
        {
            if (work.Entry == CalibrationEntry.Quantile)
                work.Thresholds[t] = ReferenceThreshold(work, t);
            loss += ReferenceTask(work, t);
        }

        if (work.Loss != null)
            *work.Loss = loss / work.Tasks;
    }

    private static unsafe float ReferenceThreshold(in IndicatorCalibrationWork work, int task)
    {
        var column = new float[work.Rows];
        for (var n = 0L; n < work.Rows; n++)
            column[n] = ReferenceFeature(work, n, task);
        if (column.Any(float.IsNaN))
            return float.NaN;
        Array.Sort(column);
        var quantile = column[work.Rows - 1 - work.Active];
        return float.IsInfinity(quantile) ? float.NaN : 0 - quantile;
    }

    private static unsafe double ReferenceTask(in IndicatorCalibrationWork work, int task)
    {
        var (active, negative, loss, isNaN) = (0, 0, 0.0, false);
        var threshold = work.Thresholds[task];
        for (var n = 0L; n < work.Rows; n++)
        {
            var x = (double)ReferenceFeature(work, n, task) + threshold;
            loss += x * (1 - work.Rate - (x < 0 ? 1 : 0));
            active += x > 0 ? 1 : 0;
            negative += x < 0 ? 1 : 0;
            isNaN |= double.IsNaN(x);
            if (work.Bits != null && x > 0)
                work.Bits[n * work.BitBytes + task / 8] |= (byte)(1 << (task % 8));
        }

        if (work.ActiveCounts != null)
            work.ActiveCounts[task] = isNaN ? -1 : active;
        if (work.TaskLosses != null)
            work.TaskLosses[task] = loss / work.Rows;
        if (work.Entry == CalibrationEntry.Pinball)
        {
            var gradient = work.GradientOf(isNaN ? -1 : negative);
            if (work.Gradient != null)
                work.Gradient[task] = gradient;
            if (work.LearningRate != 0)
                work.Thresholds[task] = (float)(threshold - work.LearningRate * gradient);
        }

        return loss / work.Rows;
    }

    private static unsafe float ReferenceFeature(in IndicatorCalibrationWork work, long row, int task)
    {
        var at = row * work.Tasks + task;
        return work.FeatureType == DType.Float32 ? ((float*)work.Features)[at] : ((BFloat16*)work.Features)[at];
    }
}
