using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_tabular_td")]
    public static partial int TabularTd(CudaContextHandle context, nint stream, TabularTdBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_first_bad_index")]
    public static partial int FirstBadIndex(CudaContextHandle context, nint stream, int* indices, int count, int limit, out int first);

    /// <summary><c>auxcore_tabular_td_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TabularTdBatch
    {
        public uint StructSize;
        public int States;
        public int Transitions;
        public uint CountsNext;
        public uint Normalised;
        public uint Reserved;
        public double StepSize;
        public double Discount;
        public float* Measure;
        public float* Snapshot;
        public int* Current;
        public int* Next;
        public byte* Done;
    }
}
