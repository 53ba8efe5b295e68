using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_successor_sweep")]
    public static partial int SuccessorSweep(CudaContextHandle context, nint stream, Sweep* sweep);

    /// <summary><c>auxcore_sweep</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Sweep
    {
        public uint StructSize;
        public int States;
        public int Entries;
        public int Sweeps;
        public uint InPlace;
        public uint CountsNext;
        public uint Normalised;
        public uint Reserved;
        public double Discount;
        public int* RowOffsets;
        public int* Columns;
        public float* Values;
        public float* Measure;
        public float* Scratch;
        public float* Changes;
    }
}
