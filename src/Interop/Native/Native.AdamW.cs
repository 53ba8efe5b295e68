using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_adamw_create")]
    public static partial int AdamWCreate(CudaContextHandle context, int averageCount, out AdamWTableHandle table);

    [LibraryImport(Library, EntryPoint = "auxcore_adamw_destroy")]
    public static partial int AdamWDestroy(nint table);

    [LibraryImport(Library, EntryPoint = "auxcore_adamw_set")]
    public static partial int AdamWSet(AdamWTableHandle table, nint stream, AdamWSettings* settings, int count, double* decays);

    [LibraryImport(Library, EntryPoint = "auxcore_adamw_update")]
    public static partial int AdamWUpdate(AdamWTableHandle table, nint stream, AdamWTensors* tensors, uint flags);

    [LibraryImport(Library, EntryPoint = "auxcore_adamw_norm")]
    public static partial int AdamWNorm(
        AdamWTableHandle table, nint stream, AdamWTensors* tensors, double scale, double greatest, int skip);

    [LibraryImport(Library, EntryPoint = "auxcore_adamw_read_norm")]
    public static partial int AdamWReadNorm(AdamWTableHandle table, nint stream, out double sumOfSquares, out long nonFinite);

    /// <summary><c>AUXCORE_ADAMW_CLIPPED</c>.</summary>
    public const uint AdamWClipped = 1;

    /// <summary><c>auxcore_adamw_settings</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct AdamWSettings
    {
        public double GradientScale;
        public float Penalty;
        public float Weight1;
        public float Weight2;
        public float Epsilon;
        public float StepSize;
        public float Shrinkage;
    }

    /// <summary><c>auxcore_adamw_tensors</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct AdamWTensors
    {
        public uint StructSize;
        public uint Reserved;
        public long TensorCount;
        public nint* Addresses;
        public long* ElementCounts;
        public DType* ParameterTypes;
        public DType* GradientTypes;
        public int* SettingsOf;
    }
}

/// <summary>An <c>auxcore_adamw_table</c>.</summary>
internal sealed class AdamWTableHandle() : NativeHandle
{
    protected override int Release(nint handle) => Native.AdamWDestroy(handle);
}
