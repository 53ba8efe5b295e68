using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What <see cref="TokenSelect"/> writes, over spans.</summary>
public readonly ref struct Selection
{
    /// <summary>
    /// At least <see cref="TokenSelect.Capacity"/>: the kept tokens, ascending, numbered as the scores are, over all segments. What is
    /// behind them is left as it was.
    /// </summary>
    public Span<int> Indices { get; init; }

    /// <summary>
    /// [B + 1]: the kept tokens of segment b lie at offsets[b] up to offsets[b + 1] of the indices (cumulative lengths, cu_seqlens).
    /// </summary>
    public Span<int> Offsets { get; init; }

    /// <summary>
    /// [N], or empty where it is not wanted: the place of each token among the kept ones, or −1. The inverse of the indices.
    /// </summary>
    public Span<int> Slots { get; init; }

    /// <summary>[B], or empty where it is not wanted: how many scores of each segment are NaN.</summary>
    public Span<int> NaNCounts { get; init; }
}

/// <summary>
/// What <see cref="TokenSelect"/> writes, in memory of any framework. All int32 and contiguous, as in <see cref="Selection"/>.
/// </summary>
public readonly struct SelectionViews
{
    /// <summary>int32, of at least <see cref="TokenSelect.Capacity"/> elements.</summary>
    public TensorView Indices { get; init; }

    /// <summary>int32 [B + 1].</summary>
    public TensorView Offsets { get; init; }

    /// <summary>int32 [N]; may be left out.</summary>
    public TensorView Slots { get; init; }

    /// <summary>int32 [B]; may be left out.</summary>
    public TensorView NaNCounts { get; init; }

    /// <summary>
    /// On a device, for more than one segment and a number of tokens that depends on scores or on what is always kept: uint8, one dimension
    /// of at least <see cref="TokenSelect.WorkspaceBytes"/>, on an address divisible by 256, whose contents become undefined. May be left
    /// out otherwise.
    /// </summary>
    public TensorView Workspace { get; init; }

    internal void KeepAlive() =>
        TensorArguments.KeepAlive(Indices.Owner, Offsets.Owner, Slots.Owner, NaNCounts.Owner, Workspace.Owner);
}
