using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// A tensor with one row a token, and where its kept rows go: hidden states, position ids, labels, the keys or values of one layer. A row
/// is whatever lies behind the token's dimension; the dimensions before it, such as heads, are taken one by one.
/// </summary>
/// <remarks>
/// Elements are copied as they are, whatever their dtype. Source and destination have the same dtype and, but for the number of tokens, the
/// same shape. Rows must be dense; all else may have strides, so that views into larger caches will do. A destination may be its own
/// source: the same address and strides. Otherwise it shares memory with nothing.
/// </remarks>
public readonly struct TokenRows
{
    private const int None = -1;

    private TokenRows(in TensorView source, in TensorView destination, int tokenAxis, int segmentAxis, bool clearRest) =>
        (Source, Destination, TokenAxis, SegmentAxis, ClearRest) = (source, destination, tokenAxis, segmentAxis, clearRest);

    internal TensorView Source { get; }

    internal TensorView Destination { get; }

    internal int TokenAxis { get; }

    internal int SegmentAxis { get; }

    internal bool ClearRest { get; }

    internal bool IsPadded => SegmentAxis != None;

    /// <summary>
    /// The tokens of all segments one after the other along one dimension: hidden states [N, D], position ids [N] or [3, N], keys
    /// [heads, N, d] of one sequence.
    /// </summary>
    /// <param name="source">N tokens along the axis.</param>
    /// <param name="destination">At least as many tokens along the axis as are kept.</param>
    /// <param name="tokenAxis">The dimension of the tokens, from 0.</param>
    /// <param name="clearRest">Whether the rows behind the kept ones become zero; otherwise they are left as they were.</param>
    public static TokenRows Ragged(in TensorView source, in TensorView destination, int tokenAxis = 0, bool clearRest = false) =>
        new(source, destination, tokenAxis, None, clearRest);

    /// <summary>
    /// Segments along one dimension and their tokens along another, from place 0: hidden states [B, L, D], position ids [3, B, L], keys
    /// [B, heads, L, d].
    /// </summary>
    /// <param name="source">B segments of as many tokens as the longest has, or more; what is behind a segment's tokens is unread.</param>
    /// <param name="destination">B segments of at least as many tokens as are kept of any.</param>
    /// <param name="segmentAxis">The dimension of the segments, from 0.</param>
    /// <param name="tokenAxis">The dimension of the tokens, from 0.</param>
    /// <param name="clearRest">Whether the rows behind the kept ones become zero; otherwise they are left as they were.</param>
    public static TokenRows Padded(
        in TensorView source, in TensorView destination, int segmentAxis = 0, int tokenAxis = 1, bool clearRest = false) =>
        new(source, destination, tokenAxis, segmentAxis < 0 ? int.MaxValue : segmentAxis, clearRest);

    internal void KeepAlive() => TensorArguments.KeepAlive(Source.Owner, Destination.Owner);
}
