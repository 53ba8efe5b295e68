using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// One step of AdamW (Loshchilov and Hutter 2019), or of Adam with an L2 penalty (Kingma and Ba 2015), in place, in one pass over
/// parameter, gradient and both moments; up to four exponential moving averages of the parameter follow in the same pass.
/// </summary>
/// <remarks>
/// <para>For the gradient g, its scale s, parameter p, moments m and v, step t and the settings α, β₁, β₂, ε, λ:</para>
/// <code>
/// g ← s · g, or −s · g to maximise               g ← g + λ · p      Adam only
/// m ← β₁ · m + (1 − β₁) · g                      v ← β₂ · v + (1 − β₂) · g²
/// p ← (1 − α · λ) · p, AdamW only                p ← p − α · m̂ / (√v̂ + ε)
/// m̂ = m / (1 − β₁ᵗ)                              v̂ = v / (1 − β₂ᵗ)
/// </code>
/// <para>Arithmetic. The kernels compute in float32, with these coefficients, formed in double and rounded once: w₁ = 1 − β₁, w₂ = 1 − β₂,
/// c = √(1 − β₂ᵗ), ε′ = c · ε, α′ = c · α / (1 − β₁ᵗ), λ′ = α · λ and κ = 0 for AdamW, λ′ = 0 and κ = λ for Adam. Each operation is rounded
/// to nearest, in this order:</para>
/// <code>
/// g ← fma(κ, p, s · g)
/// m ← fma(w₁, g, fma(−w₁, m, m))
/// v ← fma(w₂ · g, g, fma(−w₂, v, v))
/// p ← fma(−α′, m / (√v + ε′), fma(−λ′, p, p))
/// </code>
/// <para>So every backend but <see cref="AuxBackend.Reference"/>, every vector width and every number of threads give the same bits. A NaN
/// or an infinity in the gradient makes a NaN of the parameter; <see cref="GradientNorm"/> finds it before. v never becomes
/// negative.</para>
/// <para>A parameter of a 16-bit type has a float32 master, which takes the step; the parameter is the master rounded to nearest, ties to
/// even. Where a parameter is not what its master rounds to, somebody wrote to it, and the master begins from the parameter's value.</para>
/// <para>Averages follow the parameter as it is stored, with the arithmetic of <see cref="EmaUpdate"/>: the same bits as
/// <see cref="EmaUpdate"/> after the step.</para>
/// <para>Error against the formulas: a few ulps of the largest term of each sum. Where Adam's penalty cancels the gradient, or moment and
/// gradient cancel, it is relative to those.</para>
/// <para>For many tensors, or averages, use an <see cref="AdamWGroup"/>. The methods of this class are thread-safe.</para>
/// </remarks>
public static partial class AdamWUpdate
{
    /// <summary>The greatest number of averages that one pass carries.</summary>
    public const int MostAverages = 4;

    internal static readonly OpSupport Support = new(
        nameof(AdamWUpdate),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it is not one of the ops that have an ILGPU kernel; use the Cuda backend for device memory"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>One step of one float32 parameter.</summary>
    /// <param name="parameter">n elements, updated in place.</param>
    /// <param name="gradient">n elements, read only.</param>
    /// <param name="firstMoment">m, n elements, updated in place; 0 before the first step.</param>
    /// <param name="secondMoment">v, n elements, not negative, updated in place; 0 before the first step.</param>
    /// <param name="settings">Hyper-parameters, and the number of the step.</param>
    /// <param name="gradientScale">What the gradient is multiplied by: the inverse of a loss scale, a clip factor, or both.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">The lengths differ, or spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A setting is out of its range, or <paramref name="gradientScale"/> is not finite. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static void Run(
        Span<float> parameter, ReadOnlySpan<float> gradient, Span<float> firstMoment, Span<float> secondMoment,
        in AdamWSettings settings, double gradientScale = 1, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(parameter, gradient, firstMoment, secondMoment, settings, gradientScale, backend);

    /// <summary>One step of one float32 parameter by a bfloat16 gradient, which is widened exactly.</summary>
    /// <inheritdoc cref="Run(Span{float}, ReadOnlySpan{float}, Span{float}, Span{float}, in AdamWSettings, double, AuxBackend)"/>
    public static void Run(
        Span<float> parameter, ReadOnlySpan<BFloat16> gradient, Span<float> firstMoment, Span<float> secondMoment,
        in AdamWSettings settings, double gradientScale = 1, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(parameter, gradient, firstMoment, secondMoment, settings, gradientScale, backend);

    /// <summary>One step of one float32 parameter by a float16 gradient, which is widened exactly.</summary>
    /// <inheritdoc cref="Run(Span{float}, ReadOnlySpan{float}, Span{float}, Span{float}, in AdamWSettings, double, AuxBackend)"/>
    public static void Run(
        Span<float> parameter, ReadOnlySpan<Half> gradient, Span<float> firstMoment, Span<float> secondMoment,
        in AdamWSettings settings, double gradientScale = 1, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(parameter, gradient, firstMoment, secondMoment, settings, gradientScale, backend);

    /// <summary>The op's one entry below the checks.</summary>
    /// <param name="work">Addresses.</param>
    /// <param name="settings">What the rows' <see cref="AdamWRow.Settings"/> count into, checked.</param>
    /// <param name="gradientScale">Finite.</param>
    /// <param name="decays">β of each average.</param>
    /// <param name="backend">Resolved.</param>
    /// <param name="place">Where the memory is.</param>
    /// <param name="clipped">On a device: whether to go by the norm that was taken on the stream before.</param>
    /// <param name="table">What a device backend keeps from one call to the next; null at first.</param>
    internal static void Run(
        in AdamWWork work, ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays, AuxBackend backend,
        AdamWPlace place, bool clipped, ref AdamWCudaTable? table)
    {
        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(work, settings, gradientScale, decays);
                break;
            case AuxBackend.Reference:
                RunReference(work, settings, gradientScale, decays);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, settings, gradientScale, decays, place, clipped, ref table);
                break;
            default:
                throw new BackendUnavailableException(nameof(AdamWUpdate), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    internal static void CheckScale(double gradientScale)
    {
        if (!double.IsFinite(gradientScale))
            throw new ArgumentOutOfRangeException(nameof(gradientScale), gradientScale, "The gradient's scale is a finite number.");
    }

    private static unsafe void RunSpan<T>(
        Span<float> parameter, ReadOnlySpan<T> gradient, Span<float> firstMoment, Span<float> secondMoment,
        in AdamWSettings settings, double gradientScale, AuxBackend backend)
        where T : unmanaged
    {
        RequireLength(gradient.Length, nameof(gradient), parameter.Length);
        RequireLength(firstMoment.Length, nameof(firstMoment), parameter.Length);
        RequireLength(secondMoment.Length, nameof(secondMoment), parameter.Length);
        settings.Check(nameof(settings));
        CheckScale(gradientScale);
        backend = Support.Resolve(backend, AuxDevice.Host);
        if (parameter.IsEmpty)
            return;

        fixed (float* p = parameter, m = firstMoment, v = secondMoment)
        fixed (T* g = gradient)
        {
            var bytes = (nint)parameter.Length * sizeof(float);
            MemoryRange.RequireDisjoint(
            [
                new((nint)p, bytes, nameof(parameter), IsWritten: true),
                new((nint)m, bytes, nameof(firstMoment), IsWritten: true),
                new((nint)v, bytes, nameof(secondMoment), IsWritten: true),
                new((nint)g, (nint)gradient.Length * sizeof(T), nameof(gradient), IsWritten: false),
            ]);
            var row = new AdamWRow
            {
                Parameter = (nint)p, Gradient = (nint)g, FirstMoment = (nint)m, SecondMoment = (nint)v, GradientType = DTypes.Of<T>(),
            };
            var offsets = stackalloc long[] { 0, parameter.Length };
            var work = new AdamWWork(&row, null, offsets, tensorCount: 1, averageCount: 0);
            AdamWCudaTable? none = null;
            Run(work, [settings], gradientScale, [], backend, new AdamWPlace(AuxDevice.Host), clipped: false, ref none);
        }
    }

    private static void RequireLength(int length, string name, int expected)
    {
        if (length != expected)
            throw new ArgumentException($"{name}: {length} elements do not match parameter's {expected}", name);
    }
}
