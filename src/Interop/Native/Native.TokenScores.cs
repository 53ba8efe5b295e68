using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_token_scores")]
    public static partial int TokenScores(CudaContextHandle context, nint stream, TokenScoresBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_scores_workspace")]
    public static partial int TokenScoresWorkspace(TokenScoresBatch* batch, out long bytes);

    /// <summary><c>auxcore_token_scores_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenScoresBatch
    {
        public uint StructSize;
        public DType Type;
        public int Batch;
        public int QueryHeads;
        public int KeyHeads;
        public int Rows;
        public int Tokens;
        public int Depth;
        public float Scale;
        public uint Causal;
        public TokenDimensions QuerySteps;
        public TokenDimensions KeySteps;
        public void* Queries;
        public void* Keys;
        public float* LogSumExp;
        public float* HeadWeights;
        public float* Scores;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
