using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenPool
{
    /// <summary>A thread a few channels of a cell, or of a token (<c>native/cuda/token_pruning/token_pool.cu</c>).</summary>
    private static unsafe void RunCuda(in TokenPoolWork work, bool backward, AuxDevice device, nint stream)
    {
        var (windowHeight, windowWidth) = work.Grid.WindowSize;
        var batch = new Native.TokenPoolBatch
        {
            StructSize = (uint)sizeof(Native.TokenPoolBatch),
            Type = work.DType,
            Batch = checked((int)work.Batch),
            Height = work.Grid.Height,
            Width = work.Grid.Width,
            Channels = work.Channels,
            Rows = work.Grid.Rows,
            Columns = work.Grid.Columns,
            WindowHeight = windowHeight,
            WindowWidth = windowWidth,
            Source = work.Source,
            Destination = work.Destination,
        };
        var context = CudaContext.Of(device.Index, nameof(TokenPool)).Handle;
        NativeStatus.Check(
            backward ? Native.TokenPoolBackward(context, stream, &batch) : Native.TokenPool(context, stream, &batch), nameof(TokenPool));
    }
}
