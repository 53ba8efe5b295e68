using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenCompact
{
    /// <summary>All tensors in one launch, or in few (<c>native/cuda/token_pruning/token_compact.cu</c>).</summary>
    private static unsafe void RunCuda(in TokenCompactWork work, AuxDevice device, nint stream)
    {
        work.CheckMemory(forward: true);
        var (selection, tensors) = (ToNative(work, work.Indices), TensorsOf(work));
        fixed (Native.TokenRows* rows = tensors)
        {
            NativeStatus.Check(
                Native.TokenCompact(Context(device), stream, &selection, rows, tensors.Length), nameof(TokenCompact));
        }
    }

    private static unsafe void RunBackwardCuda(in TokenCompactWork work, AuxDevice device, nint stream)
    {
        work.CheckMemory(forward: false);
        var (selection, tensors) = (ToNative(work, work.Slots), TensorsOf(work));
        fixed (Native.TokenRows* rows = tensors)
        {
            NativeStatus.Check(
                Native.TokenCompactBackward(Context(device), stream, &selection, rows, tensors.Length), nameof(TokenCompact));
        }
    }

    private static CudaContextHandle Context(AuxDevice device) => CudaContext.Of(device.Index, nameof(TokenCompact)).Handle;

    private static unsafe Native.TokenSelection ToNative(in TokenCompactWork work, int* map) => new()
    {
        StructSize = (uint)sizeof(Native.TokenSelection),
        Segments = work.Segments,
        Bounds = work.Bounds,
        Offsets = work.Offsets,
        Map = map,
        MapLength = checked((int)work.MapLength),
    };

    private static unsafe Native.TokenRows[] TensorsOf(in TokenCompactWork work)
    {
        var tensors = new Native.TokenRows[work.Items.Length];
        for (var i = 0; i < tensors.Length; i++)
            tensors[i] = work.Items[i].ToNative();
        return tensors;
    }
}
