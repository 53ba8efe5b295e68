using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_token_diversity")]
    public static partial int TokenDiversity(CudaContextHandle context, nint stream, TokenDiversityBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_diversity_workspace")]
    public static partial int TokenDiversityWorkspace(int tokens, int longest, out long bytes);

    /// <summary><c>auxcore_token_diversity_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenDiversityBatch
    {
        public uint StructSize;
        public DType Type;
        public int Tokens;
        public int Width;
        public int Segments;
        public int Count;
        public int Longest;
        public int IndexCapacity;
        public void* Source;
        public int* Bounds;
        public int* Indices;
        public int* Offsets;
        public int* Slots;
        public int* NaNCounts;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
