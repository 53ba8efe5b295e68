using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorTd
{
    /// <summary>Finds what made a loss NaN or infinite: refuses inputs that are not finite, naming the tensor and the row.</summary>
    /// <param name="prediction">Q [B, T].</param>
    /// <param name="nextValues">Q̄ [B, T]; rows of terminal transitions are not looked at, as they are not read.</param>
    /// <param name="done">[B].</param>
    /// <param name="indicators">The sets.</param>
    /// <param name="tasks">T.</param>
    /// <exception cref="ArgumentException">An element is NaN or infinite, or lengths do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">B or T is below 1.</exception>
    public static void CheckFinite(
        ReadOnlySpan<float> prediction, ReadOnlySpan<float> nextValues, ReadOnlySpan<bool> done, Indicators indicators, int tasks) =>
        CheckSpans(prediction, nextValues, done, indicators, tasks);

    /// <inheritdoc cref="CheckFinite(ReadOnlySpan{float}, ReadOnlySpan{float}, ReadOnlySpan{bool}, Indicators, int)"/>
    public static void CheckFinite(
        ReadOnlySpan<BFloat16> prediction, ReadOnlySpan<BFloat16> nextValues, ReadOnlySpan<bool> done, Indicators indicators, int tasks) =>
        CheckSpans(prediction, nextValues, done, indicators, tasks);

    /// <summary>Finds what made a loss NaN or infinite: refuses inputs that are not finite, naming the tensor and the row.</summary>
    /// <param name="prediction">Q [B, T].</param>
    /// <param name="nextValues">Q̄ [B, T]; rows of terminal transitions are not looked at, as they are not read.</param>
    /// <param name="done">[B].</param>
    /// <param name="indicators">The sets.</param>
    /// <param name="stream">Device memory is copied to the host on this stream, and waited for; null for the default stream.</param>
    /// <exception cref="ArgumentException">An element is NaN or infinite, or shapes, dtypes or devices do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">B or T is below 1.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    public static unsafe void CheckFinite(
        in TensorView prediction, in TensorView nextValues, in TensorView done, in IndicatorViews indicators, CudaStream? stream)
    {
        var (rows, tasks) = RequireInputs(prediction, nextValues, done, indicators);
        using var q = HostCopy.Of(prediction, stream, nameof(IndicatorTd));
        using var next = HostCopy.Of(nextValues, stream, nameof(IndicatorTd));
        using var ended = HostCopy.Of(done, stream, nameof(IndicatorTd));
        using var features = HostCopy.Of(indicators.Data, stream, nameof(IndicatorTd));
        using var thresholds = HostCopy.Of(indicators.Thresholds, stream, nameof(IndicatorTd));

        NonFinite.Refuse(q.Address, prediction.DType, rows, tasks, nameof(prediction));
        NonFinite.Refuse(next.Address, nextValues.DType, rows, tasks, nameof(nextValues), (byte*)ended.Address);
        if (indicators.IsPacked)
            return;
        NonFinite.Refuse(features.Address, indicators.Data.DType, rows, tasks, "indicators.features");
        NonFinite.Refuse((float*)thresholds.Address, tasks, "indicators.thresholds");
    }

    private static unsafe void CheckSpans<T>(
        ReadOnlySpan<T> prediction, ReadOnlySpan<T> nextValues, ReadOnlySpan<bool> done, Indicators indicators, int tasks)
        where T : unmanaged
    {
        RequireInputs(prediction.Length, nextValues.Length, done.Length, indicators, tasks);
        fixed (T* q = prediction, next = nextValues)
        fixed (bool* ended = done)
        {
            NonFinite.Refuse(q, DTypes.Of<T>(), done.Length, tasks, nameof(prediction));
            NonFinite.Refuse(next, DTypes.Of<T>(), done.Length, tasks, nameof(nextValues), (byte*)ended);
        }

        indicators.RefuseNonFinite(done.Length, tasks);
    }
}
