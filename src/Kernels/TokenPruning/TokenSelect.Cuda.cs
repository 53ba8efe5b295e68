using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenSelect
{
    /// <summary>
    /// One launch with a block a segment, or two where it depends on scores where a segment's indices begin
    /// (<c>native/cuda/token_pruning/token_select.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in TokenSelectWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        work.RequireBounds();
        work.RequireDisjoint();
        var batch = new Native.TokenSelectBatch
        {
            StructSize = (uint)sizeof(Native.TokenSelectBatch),
            ScoreType = work.ScoreType,
            Tokens = checked((int)work.Tokens),
            Segments = work.Segments,
            Rule = (int)work.Budget.Rule,
            Count = work.Budget.Tokens,
            Minimum = work.Budget.Minimum,
            Maximum = work.Budget.Maximum,
            Value = work.Budget.Value,
            IndexCapacity = checked((int)work.IndexCapacity),
            Scores = work.Scores,
            Bounds = work.Bounds,
            Always = work.Always,
            Indices = work.Indices,
            Offsets = work.Offsets,
            Slots = work.Slots,
            NaNCounts = work.NaNCounts,
        };
        NativeStatus.Check(Native.TokenSelectWorkspace(&batch, out var bytes), nameof(TokenSelect));
        if (bytes > 0)
        {
            TensorArguments.RequireWorkspace(workspace, "selection.Workspace", bytes, device);
            batch.Workspace = (void*)workspace.Address;
            batch.WorkspaceBytes = workspace.ByteCount;
        }

        NativeStatus.Check(
            Native.TokenSelect(CudaContext.Of(device.Index, nameof(TokenSelect)).Handle, stream, &batch), nameof(TokenSelect));
        Support.Count(AuxBackend.Cuda);
    }
}
