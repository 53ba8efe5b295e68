using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What <see cref="GradientNorm"/> found in a gradient.</summary>
/// <param name="SumOfSquares">In double; infinite or NaN where an element is.</param>
/// <param name="NonFinite">How many elements are infinite or NaN.</param>
public readonly record struct GradientSummary(double SumOfSquares, long NonFinite)
{
    /// <summary>The 2-norm: the root of <see cref="SumOfSquares"/>.</summary>
    public double Norm => Math.Sqrt(SumOfSquares);

    /// <summary>Whether every element is a finite number.</summary>
    public bool IsFinite => NonFinite == 0;
}

/// <summary>
/// The 2-norm of a gradient of any number of tensors together, as clipping by the global norm needs it (Pascanu, Mikolov and Bengio 2013),
/// and how many of its elements are infinite or NaN.
/// </summary>
/// <remarks>
/// <para>Each square is formed in double, where it is exact. The order of additions is fixed, so every backend but
/// <see cref="AuxBackend.Reference"/>, every vector width and every number of threads give the same bits: a tensor is cut into chunks of
/// 4,096 elements; element i of a chunk is added to sum i mod 32; the 32 sums are folded in halves (16 and 16, 8 and 8, …). Of the chunks
/// of all tensors, in order, chunk j is added to sum j mod 256, and these are folded in halves too.</para>
/// <para>The sum of squares of float32 elements cannot overflow in double, so it is finite exactly where all elements are.</para>
/// <para>For many tensors, use <see cref="AdamWGroup.Norm"/>. The methods of this class are thread-safe.</para>
/// </remarks>
public static partial class GradientNorm
{
    /// <summary>Elements of a chunk; a tensor's last one may be shorter.</summary>
    internal const int ChunkElements = 4096;

    // As torch.nn.utils.clip_grad_norm_, so that no norm of 0 divides.
    private const double ClipEpsilon = 1e-6;

    internal static readonly OpSupport Support = new(
        nameof(GradientNorm),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it is not one of the ops that have an ILGPU kernel; use the Cuda backend for device memory"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Sums up a float32 gradient.</summary>
    /// <param name="gradient">Any number of elements; 0 for none.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static GradientSummary Run(ReadOnlySpan<float> gradient, AuxBackend backend = AuxBackend.Auto) => RunSpan(gradient, backend);

    /// <summary>Sums up a bfloat16 gradient, widened exactly.</summary>
    /// <inheritdoc cref="Run(ReadOnlySpan{float}, AuxBackend)"/>
    public static GradientSummary Run(ReadOnlySpan<BFloat16> gradient, AuxBackend backend = AuxBackend.Auto) => RunSpan(gradient, backend);

    /// <summary>Sums up a float16 gradient, widened exactly.</summary>
    /// <inheritdoc cref="Run(ReadOnlySpan{float}, AuxBackend)"/>
    public static GradientSummary Run(ReadOnlySpan<Half> gradient, AuxBackend backend = AuxBackend.Auto) => RunSpan(gradient, backend);

    /// <summary>The op's one entry below the checks: the gradients of all rows that have one.</summary>
    internal static GradientSummary Run(in AdamWWork work, AuxBackend backend, AdamWPlace place, ref AdamWCudaTable? table)
    {
        var summary = backend switch
        {
            AuxBackend.Cpu => RunCpu(work),
            AuxBackend.Reference => RunReference(work),
            AuxBackend.Cuda => RunCuda(work, place, ref table),
            _ => throw new BackendUnavailableException(nameof(GradientNorm), backend, "it has no implementation there"),
        };
        Support.Count(backend);
        return summary;
    }

    /// <summary>What gradients are multiplied by to have at most a norm; 1 where one of them is not finite.</summary>
    /// <param name="found">Of the gradients as they are.</param>
    /// <param name="scale">What they are multiplied by besides, not negative.</param>
    /// <param name="greatest">Null for no clipping.</param>
    internal static double ClipFactor(in GradientSummary found, double scale, double? greatest) =>
        found.IsFinite && greatest is { } most ? Math.Min(1, most / (found.Norm * scale + ClipEpsilon)) : 1;

    private static unsafe GradientSummary RunSpan<T>(ReadOnlySpan<T> gradient, AuxBackend backend) where T : unmanaged
    {
        backend = Support.Resolve(backend, AuxDevice.Host);
        if (gradient.IsEmpty)
            return default;
        fixed (T* g = gradient)
        {
            var row = new AdamWRow { Gradient = (nint)g, GradientType = DTypes.Of<T>() };
            var offsets = stackalloc long[] { 0, gradient.Length };
            AdamWCudaTable? none = null;
            return Run(new AdamWWork(&row, null, offsets, tensorCount: 1, averageCount: 0), backend, new AdamWPlace(AuxDevice.Host),
                ref none);
        }
    }
}
