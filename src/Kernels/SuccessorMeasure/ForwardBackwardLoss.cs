using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// The loss of forward-backward representations and its gradients, for E forward heads (Touati and Ollivier 2021, "Learning one
/// representation to optimize all rewards"; codes: <c>controllable_agent</c>, <c>metamotivo</c>). F(s, a, z) · B(s′) learns the density of
/// the successor measure. With N = n (n − 1), γ_i = γ (1 − done_i), bars for the target networks and M̄ for the heads' one target,
/// loss = Σ_e [½ mean_{i≠j} (F^e_i·B_j − γ_i M̄_ij)² − w mean_i F^e_i·B_i] + λ [½ mean_{i≠j} (B_i·B_j)² − mean_i ‖B_i‖²].
/// </summary>
/// <remarks>
/// <para>w is 1, or 1 − γ for a normalised measure. <see cref="FbConvention"/> scales the orthonormality term and says what the diagonal
/// part is; the formula above is <see cref="FbConvention.MetaMotivo"/>'s but for the targets' share of its diagonal. No gradient goes
/// through targets. What <see cref="Start"/> means is the caller's to do: F · B is M⁺, the measure from the next state on, where B was
/// evaluated at s′_j, and Ψ where it was evaluated at s_j.</para>
/// <para>Where the target is the mean of the heads, Σ_ij (F_i·B_j − γ_i F̄_i·B̄_j)² is
/// ⟨FᵀF, BᵀB⟩ − 2⟨F̄ᵀDF, B̄ᵀB⟩ + ⟨F̄ᵀD²F̄, B̄ᵀB̄⟩, D = diag(γ_i), less the n diagonal terms, and the gradients are
/// ∂F = [F(BᵀB) − DF̄(B̄ᵀB) − e⊙B] / N − wB/n and ∂B = Σ_e {[B(FᵀF) − B̄(F̄ᵀDF) − e⊙F] / N − wF/n} + the orthonormality term's,
/// with e_i = F_i·B_i − γ_i F̄_i·B̄_i: d × d matrices in place of n × n ones (<see cref="FbForm.Gram"/>). These differences cancel as
/// learning converges, so Grams and diagonals are accumulated in float64. A minimum or a penalty is not bilinear;
/// <see cref="FbForm.Tiled"/> then goes through the n × n matrices tile by tile and keeps none of them.</para>
/// <para>Deterministic: the same input gives the same bits, whatever the number of threads. A NaN in an input gives a NaN loss, except in
/// rows of F̄ of terminal transitions, which are not read. The methods of this class are thread-safe.</para>
/// </remarks>
public static partial class ForwardBackwardLoss
{
    internal static readonly OpSupport Support = new(
        nameof(ForwardBackwardLoss),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel: use Cuda"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of workspace that <c>Run</c> needs on a device.</summary>
    /// <param name="shape">E, n and d.</param>
    /// <param name="options">Their form and target count.</param>
    /// <exception cref="ArgumentException">There is no loss of that shape, or the options do not go together.</exception>
    public static long WorkspaceBytes(FbShape shape, FbOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        return PairWorkspace.Of(FbWork.Sizes(shape.Heads, shape.Count, shape.Dimension), options);
    }

    /// <summary>Loss and gradients of a batch in float32.</summary>
    /// <inheritdoc cref="RunSpans{TIn, TGradient}"/>
    public static FbTerms Run(
        ReadOnlySpan<float> forward, ReadOnlySpan<float> backward, ReadOnlySpan<float> targetForward, ReadOnlySpan<float> targetBackward,
        ReadOnlySpan<bool> done, FbShape shape, FbOptions options, Span<float> forwardGradient, Span<float> backwardGradient,
        AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(forward, backward, targetForward, targetBackward, done, shape, options, forwardGradient, backwardGradient, backend);

    /// <summary>The same from bfloat16, widened exactly; the gradients are float32.</summary>
    /// <inheritdoc cref="RunSpans{TIn, TGradient}"/>
    public static FbTerms Run(
        ReadOnlySpan<BFloat16> forward, ReadOnlySpan<BFloat16> backward, ReadOnlySpan<BFloat16> targetForward,
        ReadOnlySpan<BFloat16> targetBackward, ReadOnlySpan<bool> done, FbShape shape, FbOptions options, Span<float> forwardGradient,
        Span<float> backwardGradient, AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(forward, backward, targetForward, targetBackward, done, shape, options, forwardGradient, backwardGradient, backend);

    /// <summary>The same in float64 throughout.</summary>
    /// <inheritdoc cref="RunSpans{TIn, TGradient}"/>
    public static FbTerms Run(
        ReadOnlySpan<double> forward, ReadOnlySpan<double> backward, ReadOnlySpan<double> targetForward,
        ReadOnlySpan<double> targetBackward, ReadOnlySpan<bool> done, FbShape shape, FbOptions options, Span<double> forwardGradient,
        Span<double> backwardGradient, AuxBackend backend = AuxBackend.Auto) =>
        RunSpans(forward, backward, targetForward, targetBackward, done, shape, options, forwardGradient, backwardGradient, backend);

    /// <summary>Loss and gradients of a batch in memory of any framework, on the host or on a device.</summary>
    /// <param name="tensors">Inputs and outputs. Outputs share memory with nothing else.</param>
    /// <param name="options">Discount, convention, target, form.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes or devices do not fit, a tensor is not contiguous, an output overlaps something, n is below 2, the options do
    /// not go together, or the stream is of another device. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The discount is not within [0, 1), or another option is out of range.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static void Run(
        in FbTensors tensors, FbOptions options, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
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
    /// <param name="forward">F [E, n, d], row-major.</param>
    /// <param name="backward">B [n, d].</param>
    /// <param name="targetForward">F̄ [E, n, d] at the next states; rows of terminal transitions are not read.</param>
    /// <param name="targetBackward">B̄ [n, d].</param>
    /// <param name="done">[n]: whether the transition is terminal.</param>
    /// <param name="shape">E, at most 16; n, at least 2; d.</param>
    /// <param name="options">Discount, convention, target, form.</param>
    /// <param name="forwardGradient">Receives ∂loss/∂F [E, n, d]; shares memory with nothing else, as the other gradient.</param>
    /// <param name="backwardGradient">Receives ∂loss/∂B [n, d].</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The parts of the loss; NaN where an input is.</returns>
    /// <exception cref="ArgumentException">
    /// A length does not match the shape, n is below 2, a gradient overlaps something, or the options do not go together. Nothing was
    /// written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">The discount is not within [0, 1), or another option is out of range.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    private static unsafe FbTerms RunSpans<TIn, TGradient>(
        ReadOnlySpan<TIn> forward, ReadOnlySpan<TIn> backward, ReadOnlySpan<TIn> targetForward, ReadOnlySpan<TIn> targetBackward,
        ReadOnlySpan<bool> done, FbShape shape, FbOptions options, Span<TGradient> forwardGradient, Span<TGradient> backwardGradient,
        AuxBackend backend)
        where TIn : unmanaged
        where TGradient : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check(nameof(options));
        var (heads, n, d) = FbWork.Sizes(shape.Heads, shape.Count, shape.Dimension);
        TensorArguments.RequireLength(nameof(forward), forward.Length, [heads, n, d]);
        TensorArguments.RequireLength(nameof(backward), backward.Length, [n, d]);
        TensorArguments.RequireLength(nameof(targetForward), targetForward.Length, [heads, n, d]);
        TensorArguments.RequireLength(nameof(targetBackward), targetBackward.Length, [n, d]);
        TensorArguments.RequireLength(nameof(done), done.Length, [n]);
        TensorArguments.RequireLength(nameof(forwardGradient), forwardGradient.Length, [heads, n, d]);
        TensorArguments.RequireLength(nameof(backwardGradient), backwardGradient.Length, [n, d]);
        backend = Support.Resolve(backend, AuxDevice.Host);
        var terms = stackalloc double[4];
        fixed (TIn* f = forward, b = backward, fBar = targetForward, bBar = targetBackward)
        fixed (bool* ended = done)
        fixed (TGradient* df = forwardGradient, db = backwardGradient)
        {
            var work = new FbWork(shape, options)
            {
                DType = DTypes.Of<TIn>(),
                Forward = f,
                Backward = b,
                TargetForward = fBar,
                TargetBackward = bBar,
                Done = (byte*)ended,
                ForwardGradient = df,
                BackwardGradient = db,
                Loss = terms,
            };
            Run(work, backend, AuxDevice.Host, stream: 0);
        }

        return new(terms[0], terms[1], terms[2], terms[3]);
    }

    /// <summary>The op's one entry below the checks.</summary>
    /// <param name="work">What to do, checked but for overlap.</param>
    /// <param name="backend">Resolved: not Auto.</param>
    /// <param name="device">Where the memory is.</param>
    /// <param name="stream">The CUstream, 0 for the default one.</param>
    private static void Run(in FbWork work, AuxBackend backend, AuxDevice device, nint stream)
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
                throw new BackendUnavailableException(nameof(ForwardBackwardLoss), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }
}
