using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorTd
{
    /// <summary>
    /// A launch for rows, one for what is summed down the columns, one for the loss (<c>native/cuda/successor_measure/indicator_td.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in IndicatorTdWork work, AuxDevice device, nint stream)
    {
        var batch = ToNative(work);
        NativeStatus.Check(
            Native.IndicatorTd(CudaContext.Of(device.Index, nameof(IndicatorTd)).Handle, stream, &batch), nameof(IndicatorTd));
    }

    /// <summary>The batch as the C ABI takes it.</summary>
    internal static unsafe Native.IndicatorTdBatch ToNative(in IndicatorTdWork work) => new()
    {
        StructSize = (uint)sizeof(Native.IndicatorTdBatch),
        Rows = (int)work.Rows,
        Tasks = work.Tasks,
        Normalised = work.Normalised ? 1u : 0,
        Discount = work.Discount,
        ValueType = work.ValueType,
        FeatureType = work.FeatureType,
        Prediction = work.Prediction,
        NextValues = work.NextValues,
        Done = work.Done,
        Features = work.Features,
        Thresholds = work.Thresholds,
        Gradient = work.Gradient,
        Loss = work.Loss,
        RowLosses = work.RowLosses,
        ActiveCounts = work.ActiveCounts,
        MeanAbsoluteErrors = work.MeanAbsoluteErrors,
    };
}
