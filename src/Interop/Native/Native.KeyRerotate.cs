using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_key_rerotate")]
    public static partial int KeyRerotate(CudaContextHandle context, nint stream, KeyRerotateBatch* batch);

    /// <summary><c>auxcore_key_layer</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KeyLayer
    {
        public void* Keys;
        public DType Type;
        public int Batch;
        public int Heads;
        public uint Reserved;
        public long BatchStep;
        public long HeadStep;
        public long TokenStep;
    }

    /// <summary><c>auxcore_key_rerotate_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KeyRerotateBatch
    {
        public uint StructSize;
        public int Tokens;
        public int Depth;
        public int Rotated;
        public uint IsPairs;
        public int Rows;
        public int* Differences;
        public double* Frequencies;
        public int* RowOf;
        public KeyLayer* Layers;
        public long LayerCount;
    }
}
