using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// How much attention each key gets from some query rows, without the attention matrix:
/// score_j = Σ_h w_h Σ_i exp(scale · q_hi·k_j − lse_hi), the sum of column j of the softmaxes. With the last row it is FastV's score (Chen
/// et al. 2024, arXiv 2403.06764), with the row of the class token that of VisionZip and PruMerge, with chosen text rows that of SparseVLM,
/// with all rows the column mean.
/// </summary>
/// <remarks>
/// <para>Fused attention keeps its weights to itself; this recomputes the few that a score needs, or, for all rows, tile by tile from the
/// log-sum-exp that flash attention returns. For fewer than 24 rows that share a head of keys, their logits are kept, [rows, L]; for more,
/// one tile or strip of 32 rows. Beside that it takes L numbers a head, or R numbers a head.</para>
/// <para>Products and exponentials are float32, heads and rows are added in order. NaN propagates: a row with a NaN makes the scores of all
/// keys that it sees NaN. Results depend on neither threads nor vector width. Thread-safe, as far as no two calls write the same
/// scores.</para>
/// </remarks>
public static partial class TokenScores
{
    internal static readonly OpSupport Support = new(
        nameof(TokenScores),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "products of matrices are not for ILGPU; use the CPU"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of <see cref="ScoreTensors.Workspace"/> that scores on a device need.</summary>
    /// <param name="batch">B, at least 0.</param>
    /// <param name="queryHeads">Hq, a multiple of <paramref name="keyHeads"/>.</param>
    /// <param name="keyHeads">Hkv, at least 1.</param>
    /// <param name="rows">R, at least 0.</param>
    /// <param name="tokens">L, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is below that.</exception>
    public static long WorkspaceBytes(int batch, int queryHeads, int keyHeads, int rows, int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(batch);
        TensorArguments.RequireAtLeastOne(nameof(queryHeads), queryHeads);
        TensorArguments.RequireAtLeastOne(nameof(keyHeads), keyHeads);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        return ScoresWorkspace.Of(batch, queryHeads, keyHeads, rows, tokens);
    }

    /// <summary>Scores the keys of one sequence.</summary>
    /// <param name="queries">[Hq, R, d], row-major.</param>
    /// <param name="keys">[Hkv, L, d], row-major; L follows from its length.</param>
    /// <param name="queryHeads">Hq, a multiple of <paramref name="keyHeads"/>.</param>
    /// <param name="keyHeads">Hkv, at least 1.</param>
    /// <param name="depth">d, at least 1.</param>
    /// <param name="scores">[L], written; overlaps nothing.</param>
    /// <param name="causal">Whether row i sees keys up to L − R + i only, so that the last row sees all.</param>
    /// <param name="scale">What products are multiplied by; 1 / √d where it is left out.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, or spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1, or the scale not finite. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run(
        ReadOnlySpan<float> queries, ReadOnlySpan<float> keys, int queryHeads, int keyHeads, int depth, Span<float> scores,
        bool causal = false, double? scale = null, AuxBackend backend = AuxBackend.Auto)
    {
        TensorArguments.RequireAtLeastOne(nameof(queryHeads), queryHeads);
        TensorArguments.RequireAtLeastOne(nameof(keyHeads), keyHeads);
        TensorArguments.RequireAtLeastOne(nameof(depth), depth);
        var (rows, tokens) = (queries.Length / queryHeads / depth, keys.Length / keyHeads / depth);
        TensorArguments.RequireLength("queries", queries.Length, [queryHeads, rows, depth]);
        TensorArguments.RequireLength("keys", keys.Length, [keyHeads, tokens, depth]);
        TensorArguments.RequireLength("scores", scores.Length, tokens, nameof(scores));
        fixed (float* q = queries, k = keys, s = scores)
        {
            Run(
                new()
                {
                    Queries = TensorView.FromPointer(q, DType.Float32, [1, queryHeads, rows, depth]),
                    Keys = TensorView.FromPointer(k, DType.Float32, [1, keyHeads, tokens, depth]),
                    Scores = TensorView.FromPointer(s, DType.Float32, [1, tokens]),
                },
                causal, scale, backend);
        }
    }

    /// <summary>Scores the keys of a batch, in memory of any framework.</summary>
    /// <param name="tensors">What is read and written; scores share memory with nothing.</param>
    /// <param name="causal">
    /// Whether row i sees keys up to L − R + i only, so that the last row sees all; with lengths, those of its sequence in place of L.
    /// Needs R ≤ L.
    /// </param>
    /// <param name="scale">What products are multiplied by; 1 / √d where it is left out.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes, strides or devices do not fit, or memory overlaps. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The scale is not finite. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static void Run(
        in ScoreTensors tensors, bool causal = false, double? scale = null, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        var work = TokenScoresWork.Of(tensors, causal, scale);
        var device = tensors.Scores.Device;
        backend = Support.Resolve(backend, device);
        var padded = tensors.Lengths.ElementCount > 0;
        if (backend == AuxBackend.Cuda && padded)
            throw new BackendUnavailableException(nameof(TokenScores), backend, "it takes no Lengths; score each sequence by itself");
        if (backend == AuxBackend.Cuda)
            RunCuda(work, tensors.Workspace, device, CudaStream.HandleOn(stream, device, nameof(stream)));
        else if (padded)
            RunPadded(work, backend);
        else
            RunOnHost(work, backend);
        Support.Count(backend);
        tensors.KeepAlive();
        TensorArguments.KeepAlive(stream);
    }

    private static void RunOnHost(in TokenScoresWork work, AuxBackend backend)
    {
        if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
    }

    private static unsafe void RunPadded(in TokenScoresWork work, AuxBackend backend)
    {
        for (var b = 0; b < work.Batch; b++)
        {
            var sequence = work.Sequence(b);
            RunOnHost(sequence, backend);
            new Span<float>(sequence.Scores + sequence.Tokens, work.Tokens - sequence.Tokens).Clear();
        }
    }
}
