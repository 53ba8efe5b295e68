using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// The keys and values of one layer's KV cache, in memory of any framework: contiguous, with one stretch of positions a head, or paged
/// (Kwon et al. 2023, PagedAttention, arXiv 2309.06180), with tables that say which pages hold a sequence's positions. Heads and rows may
/// be ragged: how many positions a head has filled is not the cache's to know, and each op is told.
/// </summary>
/// <remarks>
/// A row is the d elements of one head at one position, in the bytes of its format; it, and the rows of a head within a sequence or page,
/// lie side by side. Sequences, pages and heads may have strides. So keys and values may share a pool [pages, 2, Hkv, P, row], of which one
/// passes the halves.
/// </remarks>
public readonly struct KvCacheViews
{
    /// <summary>
    /// uint8 [B, Hkv, Nmax, bytes of d], or [B, Hkv, Nmax, d] of the format's own dtype. Paged: [pages, Hkv, P, …] where a page holds all
    /// heads of a sequence, or [pages, 1, P, …] where it holds one head.
    /// </summary>
    public TensorView Keys { get; init; }

    /// <summary>How keys are stored; d is a multiple of its groups.</summary>
    public KvFormat KeyFormat { get; init; }

    /// <summary>As <see cref="Keys"/>, with the same sizes but for the row, and, paged, for the number of pages.</summary>
    public TensorView Values { get; init; }

    /// <summary>How values are stored; d is a multiple of its groups.</summary>
    public KvFormat ValueFormat { get; init; }

    /// <summary>float32 [1] or [Hkv], finite and above 0: what 1 stands for. For keys in FP8 E4M3, and for no others.</summary>
    public TensorView KeyScales { get; init; }

    /// <summary>float32 [1] or [Hkv], finite and above 0: what 1 stands for. For values in FP8 E4M3, and for no others.</summary>
    public TensorView ValueScales { get; init; }

    /// <summary>
    /// float32 [B, Hkv, W + 32, d], contiguous: the keys of the latest positions, each at its position's remainder by W + 32. For
    /// <see cref="KvFormat.Kivi4"/>, and for no others. At least the latest W are exact, and up to W + 31: 32 at a time become a block of
    /// <see cref="Keys"/>, whose positions, and those of a page, are a multiple of 32.
    /// </summary>
    public TensorView KeyResidual { get; init; }

    /// <summary>
    /// As <see cref="KeyResidual"/>, of values. The latest W are exact; one goes into <see cref="Values"/> for each that comes.
    /// </summary>
    public TensorView ValueResidual { get; init; }

    /// <summary>
    /// int32 [B + 1], or [B · Hkv + 1] where a page holds one head: where the pages of each sequence, or of each of its heads, begin in
    /// <see cref="Pages"/>, and the end (CSR). Left out for a contiguous cache.
    /// </summary>
    public TensorView PageOffsets { get; init; }

    /// <summary>
    /// int32: the pages of all sequences, in the order of their positions; page i of a sequence holds its positions i · P up to
    /// (i + 1) · P. Sequences may share pages; a page that is written is one's own.
    /// </summary>
    public TensorView Pages { get; init; }

    internal bool IsPaged => TensorArguments.IsWanted(PageOffsets);

    internal void KeepAlive() => TensorArguments.KeepAlive(
        Keys.Owner, Values.Owner, KeyScales.Owner, ValueScales.Owner, KeyResidual.Owner, ValueResidual.Owner,
        PageOffsets.Owner, Pages.Owner);
}
