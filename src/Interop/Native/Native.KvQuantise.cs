using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_kv_quantise")]
    public static partial int KvQuantise(CudaContextHandle context, nint stream, KvElements* elements);

    [LibraryImport(Library, EntryPoint = "auxcore_kv_dequantise")]
    public static partial int KvDequantise(CudaContextHandle context, nint stream, KvElements* elements);

    /// <summary><c>auxcore_kv_elements</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvElements
    {
        public uint StructSize;
        public int Format;
        public long Count;
        public float Scale;
        public uint Reserved;
        public float* Elements;
        public byte* Stored;
    }
}
