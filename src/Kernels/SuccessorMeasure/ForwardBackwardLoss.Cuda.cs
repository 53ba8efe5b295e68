using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class ForwardBackwardLoss
{
    /// <summary>
    /// Diagonals, Gram matrices, tiles where the target is not the mean, gradients, loss: a launch each
    /// (<c>native/cuda/successor_measure/forward_backward_loss.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in FbWork work, AuxDevice device, nint stream)
    {
        var options = work.Options;
        var batch = new Native.ForwardBackward
        {
            StructSize = (uint)sizeof(Native.ForwardBackward),
            Type = work.DType,
            Heads = work.Heads,
            Count = work.Count,
            Dimension = work.Dimension,
            Target = (int)options.Target,
            IsGram = options.IsGram ? 1u : 0,
            IsDifference = options.Convention == FbConvention.MetaMotivo ? 1u : 0,
            Discount = options.Discount,
            Penalty = options.Penalty,
            DiagonalWeight = options.DiagonalWeight,
            Orthonormality = options.OrthonormalityWeight,
            Forward = work.Forward,
            Backward = work.Backward,
            TargetForward = work.TargetForward,
            TargetBackward = work.TargetBackward,
            Done = work.Done,
            ForwardGradient = work.ForwardGradient,
            BackwardGradient = work.BackwardGradient,
            Loss = work.Loss,
            Workspace = work.Workspace,
            WorkspaceBytes = work.WorkspaceBytes,
        };
        NativeStatus.Check(
            Native.ForwardBackwardLoss(CudaContext.Of(device.Index, nameof(ForwardBackwardLoss)).Handle, stream, &batch),
            nameof(ForwardBackwardLoss));
    }
}
