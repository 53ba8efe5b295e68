using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_ema_create")]
    public static partial int EmaCreate(CudaContextHandle context, int averageCount, out EmaTableHandle table);

    [LibraryImport(Library, EntryPoint = "auxcore_ema_destroy")]
    public static partial int EmaDestroy(nint table);

    [LibraryImport(Library, EntryPoint = "auxcore_ema_set_decays")]
    public static partial int EmaSetDecays(EmaTableHandle table, nint stream, double* decays, int count);

    [LibraryImport(Library, EntryPoint = "auxcore_ema_set_rounding")]
    public static partial int EmaSetRounding(EmaTableHandle table, nint stream, int kind, ulong seed, long step, int firstTensor);

    [LibraryImport(Library, EntryPoint = "auxcore_ema_update")]
    public static partial int EmaUpdate(EmaTableHandle table, nint stream, EmaTensors* tensors);

    /// <summary><c>auxcore_ema_tensors</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct EmaTensors
    {
        public uint StructSize;
        public DType AverageType;
        public long TensorCount;
        public nint* Addresses;
        public long* ElementCounts;
        public DType* SourceTypes;
    }
}

/// <summary>An <c>auxcore_ema_table</c>.</summary>
internal sealed class EmaTableHandle() : NativeHandle
{
    protected override int Release(nint handle) => Native.EmaDestroy(handle);
}
