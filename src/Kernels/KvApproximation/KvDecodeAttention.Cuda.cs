using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>
    /// A block for each head of the cache and each split of its positions, then a merge of the splits, and where they are wanted the sums
    /// of positions (<c>native/cuda/kv_approximation/kv_decode_attention.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in KvAttentionWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        var cache = KvCuda.Describe(work.Cache);
        var attention = Describe(work);
        NativeStatus.Check(Native.KvAttentionWorkspace(&cache, &attention, out var bytes), nameof(KvDecodeAttention));
        TensorArguments.RequireWorkspace(workspace, nameof(workspace), bytes, device);
        attention.Workspace = (void*)workspace.Address;
        attention.WorkspaceBytes = bytes;
        NativeStatus.Check(
            Native.KvDecodeAttention(CudaContext.Of(device.Index, nameof(KvDecodeAttention)).Handle, stream, &cache, &attention),
            nameof(KvDecodeAttention));
    }

    private static unsafe long WorkspaceBytesOf(in KvAttentionWork work)
    {
        var cache = KvCuda.Describe(work.Cache);
        var attention = Describe(work);
        NativeStatus.Check(Native.KvAttentionWorkspace(&cache, &attention, out var bytes), nameof(KvDecodeAttention));
        return bytes;
    }

    private static unsafe Native.KvAttention Describe(in KvAttentionWork work) => new()
    {
        StructSize = (uint)sizeof(Native.KvAttention),
        QueryHeads = work.Shape.QueryHeads,
        LengthsAreOfHeads = work.LengthsAreOfHeads ? 1u : 0,
        SumPositions = work.PositionSums == null ? 0 : work.SumPositions,
        Scale = work.Scale,
        Query = work.Queries,
        Lengths = work.LengthsAreOnHost ? null : work.Lengths,
        HostLengths = work.LengthsAreOnHost ? work.Lengths : null,
        Output = work.Outputs,
        PositionSums = work.PositionSums,
    };
}
