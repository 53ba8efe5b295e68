using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_forward_backward_loss")]
    public static partial int ForwardBackwardLoss(CudaContextHandle context, nint stream, ForwardBackward* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_forward_backward_workspace")]
    public static partial int ForwardBackwardWorkspace(ForwardBackward* batch, out long bytes);

    /// <summary><c>auxcore_forward_backward</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct ForwardBackward
    {
        public uint StructSize;
        public DType Type;
        public int Heads;
        public int Count;
        public int Dimension;
        public int Target;
        public uint IsGram;
        public uint IsDifference;
        public double Discount;
        public double Penalty;
        public double DiagonalWeight;
        public double Orthonormality;
        public void* Forward;
        public void* Backward;
        public void* TargetForward;
        public void* TargetBackward;
        public void* Done;
        public void* ForwardGradient;
        public void* BackwardGradient;
        public double* Loss;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
