using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_token_compact")]
    public static partial int TokenCompact(
        CudaContextHandle context, nint stream, TokenSelection* selection, TokenRows* tensors, long count);

    [LibraryImport(Library, EntryPoint = "auxcore_token_compact_backward")]
    public static partial int TokenCompactBackward(
        CudaContextHandle context, nint stream, TokenSelection* selection, TokenRows* tensors, long count);

    /// <summary><c>auxcore_token_selection</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenSelection
    {
        public uint StructSize;
        public int Segments;
        public int* Bounds;
        public int* Offsets;
        public int* Map;
        public int MapLength;
        public uint Reserved;
    }

    /// <summary><c>auxcore_token_rows</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenRows
    {
        public void* Source;
        public void* Destination;
        public long RowBytes;
        public long SourceTokens;
        public long DestinationTokens;
        public long SourceStep;
        public long DestinationStep;
        public TokenDimensions Sizes;
        public TokenDimensions SourceSteps;
        public TokenDimensions DestinationSteps;
        public int SegmentDimension;
        public uint ClearsRest;
    }

    /// <summary>A number for each of the dimensions before a row that are not the tokens'.</summary>
    [InlineArray(Count)]
    public struct TokenDimensions
    {
        public const int Count = 3;

        private long _first;
    }
}
