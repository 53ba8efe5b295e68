using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What the KV cache's ops on CUDA share.</summary>
internal static unsafe class KvCuda
{
    /// <summary>A cache as <c>auxcore.h</c> has it.</summary>
    public static Native.KvCache Describe(in KvCacheWork cache) => new()
    {
        StructSize = (uint)sizeof(Native.KvCache),
        Batch = cache.Batch,
        KvHeads = cache.KvHeads,
        HeadDim = cache.HeadDim,
        Positions = cache.Keys.Positions,
        PagesAreOfHeads = cache.Keys.PagesAreOfHeads ? 1u : 0,
        PageOffsets = cache.Keys.PageOffsets,
        Pages = cache.IsPaged ? cache.Keys.Pages : null,
        PageCount = cache.PageCount,
        Keys = Describe(cache.Keys),
        Values = Describe(cache.Values),
    };

    /// <summary>The heads of some tokens; none where there are none.</summary>
    public static Native.KvRows Describe(in KvHeadRows rows) => rows.First == null
        ? default
        : new() { First = rows.First, Step = rows.TokenStep, Bias = rows.Bias, Norm = rows.Norm, Heads = rows.Heads };

    private static Native.KvPlane Describe(in KvPlane plane) => new()
    {
        Format = (int)plane.Format,
        ScaleCount = plane.ScaleCount,
        First = plane.First,
        OuterCount = plane.OuterCount,
        OuterStep = plane.OuterStep,
        HeadStep = plane.HeadStep,
        Scales = plane.ScaleCount == 0 ? null : plane.Scales,
        Residual = plane.Ring,
        ResidualPositions = plane.RingPositions,
    };
}
