using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenDiversity
{
    /// <summary>
    /// Norms, similarities by tiles, the nearest of each, then a block a segment that chooses
    /// (<c>native/cuda/token_pruning/token_diversity.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(
        in SimilarityWork work, int count, int longest, in SelectionViews selection, AuxDevice device, nint stream)
    {
        var bytes = DiversityWorkspace.Of(work.Tokens, longest);
        if (bytes > 0)
            TensorArguments.RequireWorkspace(selection.Workspace, "selection.Workspace", bytes, device);
        var batch = new Native.TokenDiversityBatch
        {
            StructSize = (uint)sizeof(Native.TokenDiversityBatch),
            Type = work.DType,
            Tokens = checked((int)work.Tokens),
            Width = work.Depth,
            Segments = work.Segments,
            Count = count,
            Longest = longest,
            IndexCapacity = checked((int)selection.Indices.ElementCount),
            Source = work.Metric,
            Bounds = work.Bounds,
            Indices = (int*)selection.Indices.Address,
            Offsets = (int*)selection.Offsets.Address,
            Slots = work.Slots,
            NaNCounts = (int*)selection.NaNCounts.Address,
            Workspace = (void*)selection.Workspace.Address,
            WorkspaceBytes = bytes > 0 ? selection.Workspace.ByteCount : 0,
        };
        NativeStatus.Check(
            Native.TokenDiversity(CudaContext.Of(device.Index, nameof(TokenDiversity)).Handle, stream, &batch), nameof(TokenDiversity));
    }
}
