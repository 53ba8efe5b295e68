using System.Runtime.InteropServices;

namespace AuxCore.Interop;

internal static unsafe partial class Native
{
    [LibraryImport(Library, EntryPoint = "auxcore_token_pool")]
    public static partial int TokenPool(CudaContextHandle context, nint stream, TokenPoolBatch* batch);

    [LibraryImport(Library, EntryPoint = "auxcore_token_pool_backward")]
    public static partial int TokenPoolBackward(CudaContextHandle context, nint stream, TokenPoolBatch* batch);

    /// <summary><c>auxcore_token_pool_batch</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenPoolBatch
    {
        public uint StructSize;
        public DType Type;
        public int Batch;
        public int Height;
        public int Width;
        public int Channels;
        public int Rows;
        public int Columns;
        public int WindowHeight;
        public int WindowWidth;
        public void* Source;
        public void* Destination;
    }
}
