using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// One layer of a call of <see cref="KvPredictWrite"/>: the product of a projection, what is yet to be done to it, and the cache that it
/// goes into.
/// </summary>
public readonly struct KvPredictLayer
{
    /// <summary>float32, bfloat16 or float16 [T, Hkv, d]; tokens may have a stride, the heads of one lie side by side.</summary>
    public TensorView Keys { get; init; }

    /// <summary>[T, Hkv, d], of the keys' dtype.</summary>
    public TensorView Values { get; init; }

    /// <summary>float32 [Hkv · d], added to keys; left out, nothing is.</summary>
    public TensorView KeyBias { get; init; }

    /// <summary>float32 [Hkv · d], added to values; left out, nothing is.</summary>
    public TensorView ValueBias { get; init; }

    /// <summary>float32 [d]: weights of the RMS norm of each head's keys, after the bias; left out, there is none.</summary>
    public TensorView KeyNorm { get; init; }

    /// <summary>The layer's cache. Hkv may differ from layer to layer, the number of sequences may not.</summary>
    public KvCacheViews Cache { get; init; }

    internal void KeepAlive()
    {
        TensorArguments.KeepAlive(Keys.Owner, Values.Owner, KeyBias.Owner, ValueBias.Owner, KeyNorm.Owner);
        Cache.KeepAlive();
    }
}

/// <summary>Where the tokens of a call of <see cref="KvPredictWrite"/> go, in every layer.</summary>
public readonly struct KvTokenPlaces
{
    /// <summary>int32 [T]: the sequence that each token is of. Left out, token t is of sequence t / (T / B).</summary>
    public TensorView Sequences { get; init; }

    /// <summary>int32 [T]: where in the caches each token is stored. Ascending within a sequence.</summary>
    public TensorView Slots { get; init; }

    /// <summary>int32 [T]: the positions of rotations, not descending within a sequence; left out, they are the slots.</summary>
    public TensorView Positions { get; init; }

    internal void KeepAlive() => TensorArguments.KeepAlive(Sequences.Owner, Slots.Owner, Positions.Owner);
}
