using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvEvict
{
    /// <summary>
    /// A block for each head smooths and ranks, where heads share a budget a block for each sequence ranks once more, and then rows move:
    /// 32 bytes of each row a block (<c>native/cuda/kv_approximation/kv_evict.cu</c>).
    /// </summary>
    private static unsafe void RunCuda(in KvEvictWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        var cache = KvCuda.Describe(work.Cache);
        TensorArguments.RequireWorkspace(
            workspace, nameof(workspace), WorkspaceBytes(work.Cache.Batch, work.Cache.KvHeads, checked((int)work.ScorePositions)), device);
        var options = work.Options;
        var budget = work.Counts == null ? options.Budget : Budget.Count(0);
        var eviction = new Native.KvEviction
        {
            StructSize = (uint)sizeof(Native.KvEviction),
            Rule = (int)budget.Rule,
            Count = budget.Tokens,
            Minimum = budget.Minimum,
            Maximum = budget.Maximum,
            PoolWidth = options.PoolWidth,
            Value = budget.Value,
            Sinks = options.Sinks,
            Recent = options.Recent,
            HeadFloor = options.HeadFloor ?? 0,
            HeadsShare = options.HeadFloor is null ? 0u : 1,
            ScorePositions = checked((int)work.ScorePositions),
            NumberPositions = work.Numbers == null ? 0 : checked((int)work.NumberPositions),
            Scores = work.Scores,
            Lengths = work.Lengths,
            Numbers = work.Numbers,
            Counts = work.Counts,
            Workspace = (void*)workspace.Address,
            WorkspaceBytes = workspace.ByteCount,
        };
        NativeStatus.Check(
            Native.KvEvict(CudaContext.Of(device.Index, nameof(KvEvict)).Handle, stream, &cache, &eviction), nameof(KvEvict));
    }
}
