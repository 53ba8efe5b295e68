using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorCalibration
{
    /// <summary>The kernels of <c>native/cuda/successor_measure/indicator_calibration.cu</c>.</summary>
    private static unsafe void RunCuda(in IndicatorCalibrationWork work, AuxDevice device, nint stream)
    {
        var context = CudaContext.Of(device.Index, nameof(IndicatorCalibration)).Handle;
        var states = new Native.IndicatorStates
        {
            StructSize = (uint)sizeof(Native.IndicatorStates),
            Rows = (int)work.Rows,
            Tasks = work.Tasks,
            FeatureType = work.FeatureType,
            Features = work.Features,
            Thresholds = work.Thresholds,
            ActiveCounts = work.ActiveCounts,
        };
        var step = new Native.Pinball
        {
            StructSize = (uint)sizeof(Native.Pinball),
            Rate = work.Rate,
            LearningRate = work.LearningRate,
            Bits = work.Bits,
            Gradient = work.Gradient,
            Loss = work.Loss,
            TaskLosses = work.TaskLosses,
        };
        var status = work.Entry switch
        {
            CalibrationEntry.Quantile => Native.IndicatorQuantile(context, stream, &states, (int)work.Active),
            CalibrationEntry.Pack => Native.IndicatorPack(context, stream, &states, work.Bits),
            _ => Native.IndicatorPinball(context, stream, &states, &step),
        };
        NativeStatus.Check(status, nameof(IndicatorCalibration));
    }
}
