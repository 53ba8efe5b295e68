using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_kv_decode_attention")]
    public static partial int KvDecodeAttention(CudaContextHandle context, nint stream, KvCache* cache, KvAttention* attention);

    [LibraryImport(Library, EntryPoint = "auxcore_kv_attention_workspace")]
    public static partial int KvAttentionWorkspace(KvCache* cache, KvAttention* attention, out long bytes);

    /// <summary><c>auxcore_kv_plane</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvPlane
    {
        public int Format;
        public int ScaleCount;
        public byte* First;
        public long OuterCount;
        public long OuterStep;
        public long HeadStep;
        public float* Scales;
        public float* Residual;
        public int ResidualPositions;
        public uint Reserved;
    }

    /// <summary><c>auxcore_kv_cache</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvCache
    {
        public uint StructSize;
        public int Batch;
        public int KvHeads;
        public int HeadDim;
        public int Positions;
        public uint PagesAreOfHeads;
        public int* PageOffsets;
        public int* Pages;
        public long PageCount;
        public KvPlane Keys;
        public KvPlane Values;
    }

    /// <summary><c>auxcore_kv_attention</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct KvAttention
    {
        public uint StructSize;
        public int QueryHeads;
        public uint LengthsAreOfHeads;
        public int SumPositions;
        public double Scale;
        public float* Query;
        public int* Lengths;
        public int* HostLengths;
        public float* Output;
        public float* PositionSums;
        public void* Workspace;
        public long WorkspaceBytes;
    }
}
