using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class PvnHead
{
    /// <summary>
    /// Grouping, products with the TD epilogue, gradients (<c>native/cuda/successor_measure/pvn_head.cu</c>). Before, unless the actions
    /// are trusted, a check of them that waits for the stream.
    /// </summary>
    private static unsafe void RunCuda(in PvnHeadWork work, AuxDevice device, nint stream)
    {
        if (!work.TrustActions)
            DeviceIndices.Require(
                work.Actions, (int)work.Rows, work.Shape.Actions, device, stream, "actions", nameof(PvnHead));
        var batch = IndicatorTd.ToNative(work.Td);
        var heads = new Native.Pvn
        {
            StructSize = (uint)sizeof(Native.Pvn),
            Features = work.Shape.Features,
            Actions = work.Shape.Actions,
            Current = work.Features,
            Next = work.NextFeatures,
            Weights = work.Weights,
            TargetMean = work.TargetMean,
            Taken = work.Actions,
            FeatureGradient = work.FeatureGradient,
            WeightGradient = work.WeightGradient,
            Workspace = work.Workspace,
            WorkspaceBytes = work.WorkspaceBytes,
        };
        NativeStatus.Check(
            Native.PvnHead(CudaContext.Of(device.Index, nameof(PvnHead)).Handle, stream, &batch, &heads), nameof(PvnHead));
    }

    private static unsafe void MeanCuda(float* weights, PvnShape shape, float* mean, AuxDevice device, nint stream)
    {
        var context = CudaContext.Of(device.Index, nameof(PvnHead)).Handle;
        NativeStatus.Check(
            Native.PvnMeanOverActions(context, stream, weights, shape.Tasks, shape.Actions, shape.Features, mean), nameof(PvnHead));
    }
}
