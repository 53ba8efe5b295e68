using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorTd
{
    /// <summary>The formulas of the class's summary, element by element, in double.</summary>
    private static unsafe void RunReference(in IndicatorTdWork work)
    {
        var height = SuccessorArguments.Height(work.Discount, work.Normalised);
        var loss = 0.0;
        var active = new double[work.Tasks];
        var magnitude = new double[work.Tasks];
        for (var place = 0L; place < work.Rows; place++)
        {
            var b = work.RowAt(place);
            var rowLoss = 0.0;
            for (var t = 0; t < work.Tasks; t++)
            {
                var at = place * work.Tasks + t;
                var indicator = ReferenceIndicator(work, b, t);
                var next = work.Done[b] != 0 ? 0 : work.Discount * Widen(work.NextValues, work.ValueType, b * work.Tasks + t);
                var error = Widen(work.Prediction, work.ValueType, at) - (height * indicator + next);
                rowLoss += error * error / 2;
                active[t] += indicator;
                magnitude[t] += Math.Abs(error);
                if (work.Gradient != null)
                    work.Gradient[at] = (float)(error / (work.Rows * (double)work.Tasks));
            }

            rowLoss /= work.Tasks;
            loss += rowLoss;
            if (work.RowLosses != null)
                work.RowLosses[b] = rowLoss;
        }

        if (work.Loss != null)
            *work.Loss = loss / work.Rows;
        for (var t = 0; t < work.Tasks; t++)
        {
            if (work.ActiveCounts != null)
                work.ActiveCounts[t] = double.IsNaN(active[t]) ? -1 : (int)active[t];
            if (work.MeanAbsoluteErrors != null)
                work.MeanAbsoluteErrors[t] = (float)(magnitude[t] / work.Rows);
        }
    }

    private static unsafe double ReferenceIndicator(in IndicatorTdWork work, long b, int t)
    {
        if (work.FeatureType == DType.UInt8)
            return (((byte*)work.Features)[b * work.BitBytes + t / 8] >> (t % 8)) & 1;
        var excess = (double)Widen(work.Features, work.FeatureType, b * work.Tasks + t) + work.Thresholds[t];
        return double.IsNaN(excess) ? double.NaN : excess > 0 ? 1 : 0;
    }

    private static unsafe float Widen(void* values, DType dtype, long at) =>
        dtype == DType.Float32 ? ((float*)values)[at] : ((BFloat16*)values)[at];
}
