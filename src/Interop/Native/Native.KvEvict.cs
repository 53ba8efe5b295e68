using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_kv_evict")]
    public static partial int KvEvict(CudaContextHandle context, nint stream, KvCache* cache, KvEviction* eviction);

    [LibraryImport(Library, EntryPoint = "auxcore_kv_evict_workspace")]
    public static partial int KvEvictWorkspace(int batch, int kvHeads, int scorePositions, out long bytes);

    /// <summary><c>auxcore_kv_eviction</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvEviction
    {
        public uint StructSize;
        public int Rule;
        public int Count;
        public int Minimum;
        public int Maximum;
        public int PoolWidth;
        public double Value;
        public int Sinks;
        public int Recent;
        public double HeadFloor;
        public uint HeadsShare;
        public uint Reserved;
        public int ScorePositions;
        public int NumberPositions;
        public float* Scores;
        public int* Lengths;
        public int* Numbers;
        public int* Counts;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
