using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_token_select")]
    public static partial int TokenSelect(CudaContextHandle context, nint stream, TokenSelectBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_select_workspace")]
    public static partial int TokenSelectWorkspace(TokenSelectBatch* batch, out long bytes);

    /// <summary><c>auxcore_token_select_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenSelectBatch
    {
        public uint StructSize;
        public DType ScoreType;
        public int Tokens;
        public int Segments;
        public int Rule;
        public int Count;
        public int Minimum;
        public int Maximum;
        public double Value;
        public int IndexCapacity;
        public uint Reserved;
        public void* Scores;
        public int* Bounds;
        public byte* Always;
        public int* Indices;
        public int* Offsets;
        public int* Slots;
        public int* NaNCounts;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
