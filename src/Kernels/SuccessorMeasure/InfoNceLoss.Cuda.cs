using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class InfoNceLoss
{
    /// <summary>
    /// Logsumexps by tiles of logits, then both gradients by tiles of weights, which are formed anew
    /// (<c>native/cuda/successor_measure/info_nce_loss.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in InfoNceWork work, AuxDevice device, nint stream)
    {
        var options = work.Options;
        var batch = new Native.InfoNce
        {
            StructSize = (uint)sizeof(Native.InfoNce),
            Type = work.DType,
            Count = work.Count,
            Dimension = work.Dimension,
            Similarity = (int)options.Similarity,
            IsSymmetric = options.IsSymmetric ? 1u : 0,
            ExcludesPositives = options.ExcludePositives ? 1u : 0,
            Temperature = options.Temperature,
            Penalty = options.LogSumExpPenalty,
            DistanceOffset = options.DistanceOffset,
            Queries = work.Queries,
            Keys = work.Keys,
            QueryGradient = work.QueryGradient,
            KeyGradient = work.KeyGradient,
            Loss = work.Loss,
            Workspace = work.Workspace,
            WorkspaceBytes = work.WorkspaceBytes,
        };
        NativeStatus.Check(
            Native.InfoNceLoss(CudaContext.Of(device.Index, nameof(InfoNceLoss)).Handle, stream, &batch), nameof(InfoNceLoss));
    }
}
