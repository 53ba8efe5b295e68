using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// What <see cref="TokenScores"/> reads and writes. Queries and keys may have strides, but the d elements of a head lie side by side; all
/// else is contiguous. Hq is a multiple of Hkv: query head h reads the keys of head ⌊h / (Hq / Hkv)⌋ (grouped-query attention).
/// </summary>
public readonly struct ScoreTensors
{
    /// <summary>float32, bfloat16 or float16 [B, Hq, R, d]: the rows whose attention is looked at, such as the last one.</summary>
    public TensorView Queries { get; init; }

    /// <summary>[B, Hkv, L, d], of the queries' dtype.</summary>
    public TensorView Keys { get; init; }

    /// <summary>
    /// float32 [B, Hq, R]: the natural logarithm of Σ_j exp(scale · q·k_j), as flash attention returns it. Left out, it is computed.
    /// </summary>
    public TensorView LogSumExp { get; init; }

    /// <summary>float32 [Hq]: what each head counts. Left out, 1 / (Hq · R): the mean over heads and rows.</summary>
    public TensorView HeadWeights { get; init; }

    /// <summary>
    /// int32 [B], in host memory, each within 0 and L: how many keys each sequence has, from the first. Those behind are padding: they get
    /// no attention and score 0, whatever they hold. Left out, all have L. Not on a device.
    /// </summary>
    public TensorView Lengths { get; init; }

    /// <summary>float32 [B, L], written: a score for each key.</summary>
    public TensorView Scores { get; init; }

    /// <summary>
    /// On a device: uint8, one dimension of at least <see cref="TokenScores.WorkspaceBytes"/>, on an address divisible by 256, whose
    /// contents become undefined. Not looked at on the host.
    /// </summary>
    public TensorView Workspace { get; init; }

    internal void KeepAlive() => TensorArguments.KeepAlive(
        Queries.Owner, Keys.Owner, LogSumExp.Owner, HeadWeights.Owner, Lengths.Owner, Scores.Owner, Workspace.Owner);
}
