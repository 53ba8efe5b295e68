using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_token_match_workspace")]
    public static partial int TokenMatchWorkspace(int tokens, int segments, out long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_token_match_bipartite")]
    public static partial int TokenMatchBipartite(CudaContextHandle context, nint stream, TokenMatchBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_match_assign")]
    public static partial int TokenMatchAssign(CudaContextHandle context, nint stream, TokenMatchBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_merge_workspace")]
    public static partial int TokenMergeWorkspace(int tokens, int kept, out long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_token_merge")]
    public static partial int TokenMerge(CudaContextHandle context, nint stream, TokenMergeBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_merge_backward")]
    public static partial int TokenMergeBackward(CudaContextHandle context, nint stream, TokenMergeBatch* batch);

    /// <summary><c>auxcore_token_match_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenMatchBatch
    {
        public uint StructSize;
        public DType Type;
        public int Tokens;
        public int Depth;
        public int Segments;
        public int Merged;
        public int Protect;
        public uint Reserved;
        public void* Metric;
        public int* Bounds;
        public int* Slots;
        public int* Offsets;
        public byte* Targets;
        public void* Workspace;
        public long WorkspaceBytes;
    }

    /// <summary><c>auxcore_token_merge_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenMergeBatch
    {
        public uint StructSize;
        public DType Type;
        public int Tokens;
        public int Kept;
        public int Width;
        public uint Reserved;
        public void* Source;
        public void* Destination;
        public int* Slots;
        public float* Sizes;
        public float* MergedSizes;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
