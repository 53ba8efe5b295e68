using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_indicator_quantile")]
    public static partial int IndicatorQuantile(CudaContextHandle context, nint stream, IndicatorStates* states, int wanted);

    [LibraryImport(Library, EntryPoint = "auxcore_indicator_pack")]
    public static partial int IndicatorPack(CudaContextHandle context, nint stream, IndicatorStates* states, byte* bits);

    [LibraryImport(Library, EntryPoint = "auxcore_indicator_pinball")]
    public static partial int IndicatorPinball(CudaContextHandle context, nint stream, IndicatorStates* states, Pinball* step);

    /// <summary><c>auxcore_indicator_states</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct IndicatorStates
    {
        public uint StructSize;
        public int Rows;
        public int Tasks;
        public DType FeatureType;
        public void* Features;
        public float* Thresholds;
        public int* ActiveCounts;
    }

    /// <summary><c>auxcore_pinball</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Pinball
    {
        public uint StructSize;
        public uint Reserved;
        public double Rate;
        public double LearningRate;
        public byte* Bits;
        public float* Gradient;
        public double* Loss;
        public double* TaskLosses;
    }
}
