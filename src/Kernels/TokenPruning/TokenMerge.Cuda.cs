using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenMerge
{
    /// <summary>Norms, lists, tiles of similarities, slots (<c>native/cuda/token_pruning/token_match.cu</c>).</summary>
    private static unsafe void BipartiteOnCuda(
        in SimilarityWork work, int merged, int protect, int* offsets, in TensorView workspace, AuxDevice device, nint stream)
    {
        var batch = MatchOf(work, workspace, device);
        (batch.Merged, batch.Protect) = (merged, protect);
        batch.Offsets = offsets;
        NativeStatus.Check(Native.TokenMatchBipartite(ContextOf(device), stream, &batch), nameof(TokenMerge));
    }

    private static unsafe void AssignOnCuda(
        in SimilarityWork work, byte* targets, in TensorView workspace, AuxDevice device, nint stream)
    {
        var batch = MatchOf(work, workspace, device);
        batch.Targets = targets;
        NativeStatus.Check(Native.TokenMatchAssign(ContextOf(device), stream, &batch), nameof(TokenMerge));
    }

    /// <summary>The members of each slot, then a block a row (<c>native/cuda/token_pruning/token_merge.cu</c>).</summary>
    private static unsafe void RunOnCuda(in MergeGroups groups, bool backward, in TensorView workspace, AuxDevice device, nint stream)
    {
        TensorArguments.RequireWorkspace(
            workspace, nameof(workspace), MergeWorkspace.OfMerging(groups.Tokens, groups.Kept), device);
        var batch = new Native.TokenMergeBatch
        {
            StructSize = (uint)sizeof(Native.TokenMergeBatch),
            Type = groups.DType,
            Tokens = checked((int)groups.Tokens),
            Kept = groups.Kept,
            Width = groups.Width,
            Source = groups.Source,
            Destination = groups.Destination,
            Slots = groups.Slots,
            Sizes = groups.Sizes,
            MergedSizes = groups.MergedSizes,
            Workspace = (void*)workspace.Address,
            WorkspaceBytes = workspace.ByteCount,
        };
        var context = ContextOf(device);
        NativeStatus.Check(
            backward ? Native.TokenMergeBackward(context, stream, &batch) : Native.TokenMerge(context, stream, &batch), nameof(TokenMerge));
    }

    private static unsafe Native.TokenMatchBatch MatchOf(in SimilarityWork work, in TensorView workspace, AuxDevice device)
    {
        var bytes = MergeWorkspace.OfMatching(work.Tokens, work.Segments);
        if (bytes > 0)
            TensorArguments.RequireWorkspace(workspace, nameof(workspace), bytes, device);
        return new()
        {
            StructSize = (uint)sizeof(Native.TokenMatchBatch),
            Type = work.DType,
            Tokens = checked((int)work.Tokens),
            Depth = work.Depth,
            Segments = work.Segments,
            Metric = work.Metric,
            Bounds = work.Bounds,
            Slots = work.Slots,
            Workspace = (void*)workspace.Address,
            WorkspaceBytes = workspace.ByteCount,
        };
    }

    private static CudaContextHandle ContextOf(AuxDevice device) => CudaContext.Of(device.Index, nameof(TokenMerge)).Handle;
}
