using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class IndicatorTd
{
    /// <summary>A launch for each kind of output that is wanted (<see cref="IndicatorTdKernel"/>).</summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in IndicatorTdWork work, AuxDevice device, nint stream)
    {
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(IndicatorTd));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            var views = Views(work, ilgpu);
            if (work.Gradient != null)
                Launch(ilgpu, on, IndicatorTdKernel.Gradient, work.Rows * work.Tasks, views);
            if (work.RowLosses != null)
                Launch(ilgpu, on, IndicatorTdKernel.RowLosses, work.Rows, views);
            if (work.Loss != null)
                Launch(ilgpu, on, IndicatorTdKernel.Loss, 1, views);
            if (work.WantsStatistics)
                Launch(ilgpu, on, IndicatorTdKernel.Columns, work.Tasks, views);
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(IndicatorTd), error) is { } translated)
        {
            throw translated;
        }
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static void Launch(
        IlgpuDevice device, AcceleratorStream stream, Action<IndicatorTdViews> kernel, long threads, in IndicatorTdViews views)
    {
        var block = device.Threads(IndicatorTdKernel.Threads);
        var launcher = device.Kernel<Action<AcceleratorStream, KernelConfig, IndicatorTdViews>>(kernel, IndicatorTdKernel.Threads);
        launcher(stream, new KernelConfig(checked((int)((threads + block - 1) / block)), block), views);
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe IndicatorTdViews Views(in IndicatorTdWork work, IlgpuDevice device)
    {
        long elements = work.Rows * work.Tasks, narrow = work.ValueType == DType.BFloat16 ? elements : 0, wide = elements - narrow;
        var kind = work.FeatureType switch
        {
            DType.Float32 => IndicatorKind.Threshold,
            DType.BFloat16 => IndicatorKind.NarrowThreshold,
            _ => IndicatorKind.Bits,
        };
        return new IndicatorTdViews
        {
            Prediction = IlgpuView.Of<float>(device, work.Prediction, wide, "prediction"),
            NarrowPrediction = IlgpuView.Of<ushort>(device, work.Prediction, narrow, "prediction"),
            NextValues = IlgpuView.Of<float>(device, work.NextValues, wide, "nextValues"),
            NarrowNextValues = IlgpuView.Of<ushort>(device, work.NextValues, narrow, "nextValues"),
            Done = IlgpuView.Of<byte>(device, work.Done, work.Rows, "done"),
            Features = IlgpuView.Of<float>(device, work.Features, kind == IndicatorKind.Threshold ? elements : 0, "features"),
            NarrowFeatures = IlgpuView.Of<ushort>(
                device, work.Features, kind == IndicatorKind.NarrowThreshold ? elements : 0, "features"),
            Bits = IlgpuView.Of<byte>(device, work.Features, kind == IndicatorKind.Bits ? work.Rows * work.BitBytes : 0, "bits"),
            Thresholds = IlgpuView.Of<float>(device, work.Thresholds, kind == IndicatorKind.Bits ? 0 : work.Tasks, "thresholds"),
            Gradient = IlgpuView.Of<float>(device, work.Gradient, elements, "gradient"),
            Loss = IlgpuView.Of<double>(device, work.Loss, 1, "loss"),
            RowLosses = IlgpuView.Of<double>(device, work.RowLosses, work.Rows, "rowLosses"),
            ActiveCounts = IlgpuView.Of<int>(device, work.ActiveCounts, work.Tasks, "activeCounts"),
            MeanAbsoluteErrors = IlgpuView.Of<float>(device, work.MeanAbsoluteErrors, work.Tasks, "meanAbsoluteErrors"),
            RowShare = 0.5 / work.Tasks,
            Rows = (int)work.Rows,
            Tasks = work.Tasks,
            IsNarrow = work.ValueType == DType.BFloat16 ? 1 : 0,
            Kind = kind,
            Discount = (float)work.Discount,
            Height = work.Height,
            Scale = (float)(1 / (work.Rows * (double)work.Tasks)),
        };
    }
}
