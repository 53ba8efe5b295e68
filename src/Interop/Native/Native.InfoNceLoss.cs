using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_info_nce_loss")]
    public static partial int InfoNceLoss(CudaContextHandle context, nint stream, InfoNce* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_info_nce_workspace")]
    public static partial int InfoNceWorkspace(InfoNce* batch, out long bytes);

    /// <summary><c>auxcore_info_nce</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct InfoNce
    {
        public uint StructSize;
        public DType Type;
        public int Count;
        public int Dimension;
        public int Similarity;
        public uint IsSymmetric;
        public uint ExcludesPositives;
        public uint Reserved;
        public double Temperature;
        public double Penalty;
        public double DistanceOffset;
        public void* Queries;
        public void* Keys;
        public void* QueryGradient;
        public void* KeyGradient;
        public double* Loss;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
