using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_indicator_td")]
    public static partial int IndicatorTd(CudaContextHandle context, nint stream, IndicatorTdBatch* batch);

    /// <summary><c>auxcore_indicator_td_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct IndicatorTdBatch
    {
        public uint StructSize;
        public int Rows;
        public int Tasks;
        public uint Normalised;
        public double Discount;
        public DType ValueType;
        public DType FeatureType;
        public void* Prediction;
        public void* NextValues;
        public byte* Done;
        public void* Features;
        public float* Thresholds;
        public float* Gradient;
        public double* Loss;
        public double* RowLosses;
        public int* ActiveCounts;
        public float* MeanAbsoluteErrors;
    }
}
