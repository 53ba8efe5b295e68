using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_kv_append_tokens")]
    public static partial int KvAppendTokens(CudaContextHandle context, nint stream, KvCache* cache, KvAppend* append);

    /// <summary><c>auxcore_kv_rows</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvRows
    {
        public void* First;
        public long Step;
        public float* Norm;
        public int Heads;
        public uint Reserved;
    }

    /// <summary><c>auxcore_kv_append</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvAppend
    {
        public uint StructSize;
        public int Tokens;
        public DType Type;
        public uint SlotsAreOfHeads;
        public KvRows Query;
        public KvRows Keys;
        public KvRows Values;
        public float* RotatedQuery;
        public long RotatedStep;
        public int* Sequences;
        public int* Slots;
        public int* Positions;
        public double NormEpsilon;
        public int Rotated;
        public int IsInPairs;
        public double* Frequencies;
    }
}
