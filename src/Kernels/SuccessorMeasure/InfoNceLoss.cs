using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// InfoNCE and its gradients (van den Oord, Li and Vinyals 2018; as the critic of contrastive reinforcement learning, Eysenbach et al.
/// 2022, and JaxGCRL, Bortkiewicz et al. 2025): with logits l_ij of query φ_i and key ψ_j, the n pairs (i, i) being positive,
/// loss = mean_i (logsumexp_j l_ij − l_ii) + c · mean_i (logsumexp_j l_ij)².
/// </summary>
/// <remarks>
/// <para>A symmetric loss adds mean_j (logsumexp_i l_ij − l_jj), without halving; the penalty stays with the rows.</para>
/// <para>No n × n matrix is kept: a strip of some queries against all keys at a time, with a running maximum and sum. Logits are formed in
/// float32 (float64 from float64) and logsumexps and the loss in float64. A distance comes from ‖φ‖² + ‖ψ‖² − 2 φ·ψ about the mean of the
/// keys, so a common offset costs no accuracy; distances below about 10⁻³ of the remaining norms are not resolved in float32, but for those
/// of the positive pairs, which are formed directly.</para>
/// <para>Deterministic: the same input gives the same bits, whatever the number of threads. A NaN in an input gives a NaN loss. The methods
/// of this class are thread-safe.</para>
/// </remarks>
public static partial class InfoNceLoss
{
    internal static readonly OpSupport Support = new(
        nameof(InfoNceLoss),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel: use Cuda"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of workspace that <c>Run</c> needs on a device.</summary>
    /// <param name="count">n.</param>
    /// <param name="dimension">d.</param>
    /// <exception cref="ArgumentException">There is no loss of that shape.</exception>
    public static long WorkspaceBytes(int count, int dimension)
    {
        var (n, d) = InfoNceWork.Sizes(count, dimension);
        return PairWorkspace.Of(n, d);
    }

    /// <summary>Loss and gradients of a batch in float32.</summary>
    /// <inheritdoc cref="RunSpans{TIn, TGradient}"/>
    public static InfoNceTerms Run(
        ReadOnlySpan<float> queries, ReadOnlySpan<float> keys, int count, int dimension, InfoNceOptions options,
        Span<float> queryGradient, Span<float> keyGradient, AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(queries, keys, count, dimension, options, queryGradient, keyGradient, backend);

    /// <summary>The same from bfloat16, widened exactly; the gradients are float32.</summary>
    /// <inheritdoc cref="RunSpans{TIn, TGradient}"/>
    public static InfoNceTerms Run(
        ReadOnlySpan<BFloat16> queries, ReadOnlySpan<BFloat16> keys, int count, int dimension, InfoNceOptions options,
        Span<float> queryGradient, Span<float> keyGradient, AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(queries, keys, count, dimension, options, queryGradient, keyGradient, backend);

    /// <summary>The same in float64 throughout.</summary>
    /// <inheritdoc cref="RunSpans{TIn, TGradient}"/>
    public static InfoNceTerms Run(
        ReadOnlySpan<double> queries, ReadOnlySpan<double> keys, int count, int dimension, InfoNceOptions options,
        Span<double> queryGradient, Span<double> keyGradient, AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(queries, keys, count, dimension, options, queryGradient, keyGradient, backend);

    /// <summary>Loss and gradients of a batch in memory of any framework, on the host or on a device.</summary>
    /// <param name="tensors">Inputs and outputs. Outputs share memory with nothing else.</param>
    /// <param name="options">Logits, direction, penalty.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes or devices do not fit, a tensor is not contiguous, an output overlaps something, n is below 2, or the stream
    /// is of another device. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of range. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static void Run(
        in InfoNceTensors tensors, InfoNceOptions options, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        var work = tensors.Check(options);
        backend = Support.Resolve(backend, tensors.Device);
        Run(work, backend, tensors.Device, CudaStream.HandleOn(stream, tensors.Device, nameof(stream)));
        tensors.KeepAlive();
        GC.KeepAlive(stream);
    }

    /// <typeparam name="TIn">float, <see cref="BFloat16"/> or double.</typeparam>
    /// <typeparam name="TGradient">float, or double where the input is.</typeparam>
    /// <param name="queries">φ [n, d], row-major.</param>
    /// <param name="keys">ψ [n, d]; ψ_i is the positive of φ_i.</param>
    /// <param name="count">n, at least 2.</param>
    /// <param name="dimension">d.</param>
    /// <param name="options">Logits, direction, penalty.</param>
    /// <param name="queryGradient">Receives ∂loss/∂φ [n, d]; shares memory with nothing else, as the other gradient.</param>
    /// <param name="keyGradient">Receives ∂loss/∂ψ [n, d].</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The parts of the loss; NaN where an input is.</returns>
    /// <exception cref="ArgumentException">
    /// A length does not match the shape, n is below 2, or a gradient overlaps something. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of range. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    private static unsafe InfoNceTerms RunSpans<TIn, TGradient>(
        ReadOnlySpan<TIn> queries, ReadOnlySpan<TIn> keys, int count, int dimension, InfoNceOptions options,
        Span<TGradient> queryGradient, Span<TGradient> keyGradient, AuxBackend backend)
        where TIn : unmanaged
        where TGradient : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        var (n, d) = InfoNceWork.Sizes(count, dimension);
        TensorArguments.RequireLength(nameof(queries), queries.Length, [n, d]);
        TensorArguments.RequireLength(nameof(keys), keys.Length, [n, d]);
        TensorArguments.RequireLength(nameof(queryGradient), queryGradient.Length, [n, d]);
        TensorArguments.RequireLength(nameof(keyGradient), keyGradient.Length, [n, d]);
        backend = Support.Resolve(backend, AuxDevice.Host);
        var terms = stackalloc double[2];
        fixed (TIn* q = queries, k = keys)
        fixed (TGradient* dq = queryGradient, dk = keyGradient)
        {
            var work = new InfoNceWork(n, d, options)
            {
                DType = DTypes.Of<TIn>(),
                Queries = q,
                Keys = k,
                QueryGradient = dq,
                KeyGradient = dk,
                Loss = terms,
            };
            Run(work, backend, AuxDevice.Host, stream: 0);
        }

        return new(terms[0], terms[1]);
    }

    /// <summary>The op's one entry below the checks.</summary>
    /// <param name="work">What to do, checked but for overlap.</param>
    /// <param name="backend">Resolved: not Auto.</param>
    /// <param name="device">Where the memory is.</param>
    /// <param name="stream">The CUstream, 0 for the default one.</param>
    private static void Run(in InfoNceWork work, AuxBackend backend, AuxDevice device, nint stream)
    {
        work.RequireDisjoint();
        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(work);
                break;
            case AuxBackend.Reference:
                RunReference(work);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(InfoNceLoss), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }
}
