using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_kv_predict_write")]
    public static partial int KvPredictWrite(CudaContextHandle context, nint stream, KvPredict* predict);

    /// <summary><c>auxcore_kv_predict_layer</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvPredictLayer
    {
        public KvCache Cache;
        public KvRows Keys;
        public KvRows Values;
    }

    /// <summary><c>auxcore_kv_predict</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvPredict
    {
        public uint StructSize;
        public int Tokens;
        public DType Type;
        public int LayerCount;
        public KvPredictLayer* Layers;
        public int* Sequences;
        public int* Slots;
        public int* Positions;
        public double NormEpsilon;
        public int Rotated;
        public int IsInPairs;
        public double* Frequencies;
    }
}
