using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_pvn_head")]
    public static partial int PvnHead(CudaContextHandle context, nint stream, IndicatorTdBatch* batch, Pvn* heads);

    [LibraryImport(Library, EntryPoint = "auxcore_pvn_head_workspace")]
    public static partial int PvnHeadWorkspace(int rows, int tasks, int actions, out long bytes);

    [LibraryImport(Library, EntryPoint = "auxcore_pvn_mean_over_actions")]
    public static partial int PvnMeanOverActions(
        CudaContextHandle context, nint stream, float* weights, int tasks, int actions, int features, float* mean);

    /// <summary><c>auxcore_pvn</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Pvn
    {
        public uint StructSize;
        public int Features;
        public int Actions;
        public uint Reserved;
        public float* Current;
        public float* Next;
        public float* Weights;
        public float* TargetMean;
        public int* Taken;
        public float* FeatureGradient;
        public float* WeightGradient;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
