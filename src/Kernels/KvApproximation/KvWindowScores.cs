using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// How much attention each position of a head gets from a window of queries: the mean of their softmaxes, from queries and keys, or from
/// logits that a product of matrices left. It is the score of SnapKV (Li et al. 2024, arXiv 2404.14469), whose window is the last 64
/// queries of a prompt; with one query it is that of TOVA (Oren et al. 2024, arXiv 2401.06104).
/// </summary>
/// <remarks>
/// <para>score_j = 1 / (G W) Σ_r exp(s · x_rj − lse_r), over the W queries of the G heads that share keys. Logits are read once, and only
/// a row's exponentials, and the sums of a head, are kept beside them. From queries and keys, keys are read once for all rows, unless
/// positions are so many that rows go by strips; exponentials are of what is known of a row's greatest logit after 64 keys more, and
/// mended when all of it is known. <see cref="TokenScores"/> makes logits twice where rows and positions are many.</para>
/// <para>Exponentials and sums are in float32; rows are added in their order. Bits depend on the vector width, not on threads, which share
/// heads. A NaN, or +∞, among the logits that a row sees makes the head's scores NaN that the row sees; so does a row that is −∞
/// throughout. Thread-safe, as far as no two calls write the same scores.</para>
/// <para>On CUDA rows of logits are read twice; from queries and keys, keys are read once, and weights lie in the workspace meanwhile.
/// Repeated calls give the same bits; nothing is waited for.</para>
/// </remarks>
public static partial class KvWindowScores
{
    internal static readonly OpSupport Support = new(
        nameof(KvWindowScores),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel; keep the logits on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of workspace that a call with logits in device memory needs: 8 a row.</summary>
    /// <param name="heads">Heads of keys of all sequences, at least 0.</param>
    /// <param name="group">G, query heads that share one, at least 0.</param>
    /// <param name="window">W, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative.</exception>
    public static long WorkspaceBytes(int heads, int group, int window)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(heads);
        ArgumentOutOfRangeException.ThrowIfNegative(group);
        ArgumentOutOfRangeException.ThrowIfNegative(window);
        const int RowBytes = 2 * sizeof(float);
        return checked((long)heads * group * window * RowBytes);
    }

    /// <summary>The bytes of workspace that a call with queries and keys in device memory needs: 4 a product, and some.</summary>
    /// <param name="heads">Heads of keys of all sequences, at least 0.</param>
    /// <param name="group">G, query heads that share one, at least 0.</param>
    /// <param name="window">W, at least 0.</param>
    /// <param name="positions">N, at least 0.</param>
    /// <exception cref="ArgumentException">More than 64 bits count.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A number is negative.</exception>
    /// <exception cref="BackendUnavailableException">The native library is not there.</exception>
    public static long WorkspaceBytes(int heads, int group, int window, int positions)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(positions);
        return WorkspaceBytes(heads, group, window) == 0 ? 0 : ProductWorkspaceBytes(heads, group, window, positions);
    }

    /// <summary>Scores the positions of any number of heads of keys.</summary>
    /// <param name="logits">float32 [heads, G, W, N], contiguous: products of queries and keys; G query heads share a head of keys.</param>
    /// <param name="scores">float32 [heads, N], contiguous, written. Shares memory with nothing.</param>
    /// <param name="causal">Whether query w sees positions up to N − W + w only, so that the last sees all. Needs W ≤ N.</param>
    /// <param name="scale">s, finite: what logits are multiplied by.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// For device memory: uint8 [n], aligned to 256 bytes, whose contents become undefined;
    /// <see cref="WorkspaceBytes(int, int, int)"/> says how many.
    /// </param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes or devices do not fit, a tensor is not contiguous, or they overlap. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The scale is not finite. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static unsafe void Run(
        in TensorView logits, in TensorView scores, bool causal = true, double scale = 1, AuxBackend backend = AuxBackend.Auto,
        TensorView workspace = default, CudaStream? stream = null)
    {
        if (logits.Shape.Length != 4 || logits.Shape[1] < 1 || logits.Shape[2] < 1 || logits.ElementCount > int.MaxValue * 64L)
            throw new ArgumentException($"logits: {logits} is not of rank 4, [heads, G, W, N], with rows", nameof(logits));
        var shape = logits.Shape;
        TensorArguments.Require(logits, nameof(logits), [DType.Float32], shape, logits.Device, nameof(logits));
        TensorArguments.Require(scores, nameof(scores), [DType.Float32], [shape[0], shape[3]], logits.Device, nameof(scores));
        if (causal && shape[2] > shape[3])
            throw new ArgumentException($"logits: {logits} has more queries than positions, and is causal", nameof(logits));
        if (shape[3] > int.MaxValue)
            throw new ArgumentException($"logits: {logits} has too many positions", nameof(logits));
        if (!double.IsFinite(scale))
            throw new ArgumentOutOfRangeException(nameof(scale), scale, "A scale is finite.");
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(logits), (void*)logits.Address, logits.ByteCount),
            NamedMemory.Written(nameof(scores), (void*)scores.Address, scores.ByteCount));
        backend = Support.Resolve(backend, logits.Device);
        var work = new KvWindowWork(
            (float*)logits.Address, (float*)scores.Address, (int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3], causal, scale);
        var on = CudaStream.HandleOn(stream, logits.Device, nameof(stream));
        if (backend == AuxBackend.Cuda)
            RunCuda(work, workspace, logits.Device, on);
        else if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
        Support.Count(backend);
        TensorArguments.KeepAlive(logits.Owner, scores.Owner, workspace.Owner, stream);
    }

    /// <summary>Scores the positions of any number of heads of keys, from queries and keys.</summary>
    /// <param name="queries">float32 [heads, G, W, d], contiguous: G query heads share a head of keys.</param>
    /// <param name="keys">float32 [heads, N, d], the elements of a key dense.</param>
    /// <param name="scores">float32 [heads, N], contiguous, written. Shares memory with nothing.</param>
    /// <param name="causal">Whether query w sees positions up to N − W + w only, so that the last sees all. Needs W ≤ N.</param>
    /// <param name="scale">s, finite: what products are multiplied by; 1 / √d without.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// For device memory: uint8 [n], aligned to 256 bytes, whose contents become undefined;
    /// <see cref="WorkspaceBytes(int, int, int, int)"/> says how many.
    /// </param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <remarks>A row whose logits have a NaN or +∞, or are −∞ throughout, makes all scores of its head NaN.</remarks>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes or devices do not fit, a tensor is not laid out as it says here, or they overlap. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The scale is not finite. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static unsafe void Run(
        in TensorView queries, in TensorView keys, in TensorView scores, bool causal = true, double? scale = null,
        AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        var work = KvWindowProduct.Of(queries, keys, scores, causal, scale);
        backend = Support.Resolve(backend, queries.Device);
        var on = CudaStream.HandleOn(stream, queries.Device, nameof(stream));
        if (backend == AuxBackend.Cuda)
            RunCuda(work, workspace, queries.Device, on);
        else if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
        Support.Count(backend);
        TensorArguments.KeepAlive(queries.Owner, keys.Owner, scores.Owner, workspace.Owner, stream);
    }
}

/// <summary>One call of <see cref="KvWindowScores"/>, whose arguments were checked.</summary>
internal readonly unsafe struct KvWindowWork(
    float* logits, float* scores, int heads, int group, int window, int positions, bool causal, double scale)
{
    public int Heads => heads;

    /// <summary>Rows of a head: those of G query heads, one after the other.</summary>
    public int Rows => group * window;

    public int Window => window;

    public int Positions => positions;

    public bool IsCausal => causal;

    public double Scale => scale;

    public float* Row(int head, int row) => logits + ((long)head * Rows + row) * positions;

    public float* Scores(int head) => scores + (long)head * positions;

    /// <summary>How many positions a row sees.</summary>
    public int Seen(int row) => causal ? positions - window + row % window + 1 : positions;
}
