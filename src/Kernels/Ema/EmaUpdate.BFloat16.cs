using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <content>Averages in bfloat16.</content>
public static partial class EmaUpdate
{
    /// <summary>Updates one average that is stored in bfloat16, from a float32 source.</summary>
    /// <param name="average">The average, n elements, updated in place.</param>
    /// <param name="source">The new values, n elements, read only; must not overlap <paramref name="average"/>.</param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="rounding">How the float32 result is rounded.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">
    /// The lengths differ, the spans overlap, or <paramref name="rounding"/> is the default. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// <paramref name="decay"/> is NaN or outside [0, 1], or above 0.99 where the rounding is to the nearest and not forced.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static void Run(
        Span<BFloat16> average, ReadOnlySpan<float> source, double decay, EmaRounding rounding, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(average, source, decay, rounding, backend);

    /// <summary>Updates one average that is stored in bfloat16, from a bfloat16 source.</summary>
    /// <inheritdoc cref="Run(Span{BFloat16}, ReadOnlySpan{float}, double, EmaRounding, AuxBackend)"/>
    public static void Run(
        Span<BFloat16> average, ReadOnlySpan<BFloat16> source, double decay, EmaRounding rounding, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(average, source, decay, rounding, backend);

    /// <summary>Updates one average that is stored in bfloat16, from a float16 source.</summary>
    /// <inheritdoc cref="Run(Span{BFloat16}, ReadOnlySpan{float}, double, EmaRounding, AuxBackend)"/>
    public static void Run(
        Span<BFloat16> average, ReadOnlySpan<Half> source, double decay, EmaRounding rounding, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(average, source, decay, rounding, backend);

    /// <summary>Updates one average in memory of any framework, which may be bfloat16.</summary>
    /// <param name="average">The average: float32 or bfloat16, contiguous, updated in place.</param>
    /// <param name="source">
    /// The new values: float32, bfloat16 or float16, contiguous, of the average's shape and on its device; must not overlap it.
    /// </param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="rounding">How a bfloat16 average is rounded.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without.</param>
    /// <inheritdoc cref="Run(in TensorView, in TensorView, double, AuxBackend, CudaStream)" path="/exception"/>
    public static void Run(
        in TensorView average, in TensorView source, double decay, EmaRounding rounding, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        CheckDecay(decay, nameof(decay));
        using var group = EmaGroup.FromViews([source], [[average]]);
        group.Update([decay], rounding, backend, stream);
    }

    private static unsafe void RunSpan<T>(
        Span<BFloat16> average, ReadOnlySpan<T> source, double decay, EmaRounding rounding, AuxBackend backend) where T : unmanaged
    {
        if (average.Length != source.Length)
            throw new ArgumentException($"source: {source.Length} elements do not match average's {average.Length}", nameof(source));
        CheckDecay(decay, nameof(decay));
        EmaRounding.Require(rounding, decay, nameof(decay), nameof(average));
        backend = Support.Resolve(backend, AuxDevice.Host);
        fixed (BFloat16* e = average)
        fixed (T* p = source)
        {
            if (!average.IsEmpty && (void*)e < p + source.Length && (void*)p < e + average.Length)
                throw new ArgumentException("source overlaps average", nameof(source));

            var addresses = stackalloc nint[] { (nint)p, (nint)e };
            var offsets = stackalloc long[] { 0, average.Length };
            var (sourceType, averageType) = (DTypes.Of<T>(), DType.BFloat16);
            Run(new EmaWork(addresses, offsets, &sourceType, 1, 1, &averageType, rounding), [decay], backend);
        }
    }
}
