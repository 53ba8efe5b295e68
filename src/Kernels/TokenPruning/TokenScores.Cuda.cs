using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenScores
{
    /// <summary>
    /// Logits and softmaxes by chunks of keys, then sums of columns; for many rows tiles
    /// (<c>native/cuda/token_pruning/token_scores.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in TokenScoresWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        var bytes = WorkspaceBytes(work.Batch, work.QueryHeads, work.KeyHeads, work.Rows, work.Tokens);
        if (bytes > 0)
        {
            TensorArguments.RequireWorkspace(workspace, "Workspace", bytes, device);
            TensorArguments.RequireDisjoint(
                NamedMemory.Written("Workspace", (void*)workspace.Address, workspace.ByteCount),
                NamedMemory.Written("Scores", work.Scores, (long)work.Batch * work.Tokens * sizeof(float)));
        }

        var batch = new Native.TokenScoresBatch
        {
            StructSize = (uint)sizeof(Native.TokenScoresBatch),
            Type = work.DType,
            Batch = work.Batch,
            QueryHeads = work.QueryHeads,
            KeyHeads = work.KeyHeads,
            Rows = work.Rows,
            Tokens = work.Tokens,
            Depth = work.Depth,
            Scale = work.Scale,
            Causal = work.Causal ? 1u : 0,
            Queries = work.Queries,
            Keys = work.Keys,
            LogSumExp = work.LogSumExp,
            HeadWeights = work.HeadWeights,
            Scores = work.Scores,
            Workspace = (void*)workspace.Address,
            WorkspaceBytes = bytes > 0 ? workspace.ByteCount : 0,
        };
        (batch.QuerySteps[0], batch.QuerySteps[1], batch.QuerySteps[2]) = work.QueryStep;
        (batch.KeySteps[0], batch.KeySteps[1], batch.KeySteps[2]) = work.KeyStep;
        NativeStatus.Check(
            Native.TokenScores(CudaContext.Of(device.Index, nameof(TokenScores)).Handle, stream, &batch), nameof(TokenScores));
    }
}
