using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// What <see cref="KvAppend"/> reads and, but for the cache, writes: T tokens, of any sequences. Queries, keys and values are float32,
/// bfloat16 or float16, all of one dtype; the heads of a token lie side by side, and tokens may have a stride, so that parts of one
/// projection [T, (Hq + 2 Hkv) · d] will do. All else is contiguous.
/// </summary>
public readonly struct KvAppendTensors
{
    /// <summary>[T, Hq, d], before norm and rotation; may be left out.</summary>
    public TensorView Query { get; init; }

    /// <summary>
    /// float32 [T, Hq, d], written: queries after norm and rotation, as <see cref="KvDecodeAttention"/> takes them. May be the query
    /// itself. There where, and only where, the query is.
    /// </summary>
    public TensorView RotatedQuery { get; init; }

    /// <summary>[T, Hkv, d], before norm and rotation.</summary>
    public TensorView Keys { get; init; }

    /// <summary>[T, Hkv, d].</summary>
    public TensorView Values { get; init; }

    /// <summary>
    /// int32 [T]: the sequence that each token is of. Left out, tokens are those of a tensor [B, T / B, …]: token t is of sequence
    /// t / (T / B).
    /// </summary>
    public TensorView Sequences { get; init; }

    /// <summary>
    /// int32 [T], or [T, Hkv] where heads are ragged: where in the cache each token is stored. Ascending within a sequence.
    /// </summary>
    public TensorView Slots { get; init; }

    /// <summary>
    /// int32 [T]: the positions that rotations are by; not negative, and not descending within a sequence. Left out, they are the slots,
    /// which then are of [T].
    /// </summary>
    public TensorView Positions { get; init; }

    /// <summary>float32 [d]: weights of the RMS norm of each query head; left out, there is none.</summary>
    public TensorView QueryNorm { get; init; }

    /// <summary>float32 [d]: weights of the RMS norm of each head's keys; left out, there is none.</summary>
    public TensorView KeyNorm { get; init; }

    internal void KeepAlive() => TensorArguments.KeepAlive(
        Query.Owner, RotatedQuery.Owner, Keys.Owner, Values.Owner, Sequences.Owner, Slots.Owner, Positions.Owner, QueryNorm.Owner,
        KeyNorm.Owner);
}
