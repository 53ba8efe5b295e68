using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_kv_window_scores")]
    public static partial int KvWindowScores(CudaContextHandle context, nint stream, KvWindow* window);

    [LibraryImport(Library, EntryPoint = "auxcore_kv_window_workspace")]
    public static partial int KvWindowWorkspace(KvWindow* window, out long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_kv_window_scores_of_product")]
    public static partial int KvWindowScoresOfProduct(CudaContextHandle context, nint stream, KvWindowProduct* product);

    [LibraryImport(Library, EntryPoint = "auxcore_kv_window_product_workspace")]
    public static partial int KvWindowProductWorkspace(KvWindowProduct* product, out long bytes);

    /// <summary><c>auxcore_kv_window</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvWindow
    {
        public uint StructSize;
        public int Heads;
        public int Group;
        public int Window;
        public int Positions;
        public uint Causal;
        public double Scale;
        public float* Logits;
        public float* Scores;
        public void* Workspace;
        public long WorkspaceBytes;
    }

    /// <summary><c>auxcore_kv_window_product</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvWindowProduct
    {
        public uint StructSize;
        public int Heads;
        public int Group;
        public int Window;
        public int Positions;
        public uint Causal;
        public int Depth;
        public uint Reserved;
        public double Scale;
        public float* Queries;
        public float* Keys;
        public long KeyStep;
        public long HeadStep;
        public float* Scores;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
