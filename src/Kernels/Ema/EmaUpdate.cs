using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Exponential moving average, in place: average ← β · average + (1 − β) · source, elementwise, the average in float32 (or bfloat16, with
/// a rounding of the caller's choice) and the source in float32, bfloat16 or float16. This is the update of weight averaging (Polyak and
/// Juditsky 1992), of momentum teachers, and of the Momentum Auxiliary Network (Su et al. 2024, the update of its auxiliary layers with
/// m = β).
/// </summary>
/// <remarks>
/// <para>Arithmetic. w = (float)(1 − β), formed in double. Where w &lt; ½ the average e moves towards the source p by e ← fma(w, p − e, e);
/// otherwise e ← fma(−(float)β, p − e, p). Either way the error is at most one ulp of max(|e|, |p|). Where p equals e the average keeps its
/// bits, infinities and the sign of zero included. β = 0 copies the source bit for bit; β = 1 leaves the average alone and reads nothing.
/// A NaN on either side gives NaN. Where p − e is no finite float32 (one of them infinite, or both huge and of opposite sign) the result is
/// not finite either, as for libtorch's <c>lerp_</c>. An average in bfloat16 is widened exactly, updated by this arithmetic and rounded as
/// <see cref="EmaRounding"/> says; its error is that rounding's, less than one unit of the last place of bfloat16, beside the one above.
/// Values that are bfloat16 already are not changed by any rounding.</para>
/// <para>For many tensors, or several averages of the same tensors, use an <see cref="EmaGroup"/>: one call for all of them.
/// The methods of this class are thread-safe.</para>
/// </remarks>
public static partial class EmaUpdate
{
    internal static readonly OpSupport Support = new(
        nameof(EmaUpdate),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Updates one average from a float32 source.</summary>
    /// <param name="average">The average, n elements, updated in place.</param>
    /// <param name="source">The new values, n elements, read only; must not overlap <paramref name="average"/>.</param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">The lengths differ, or the spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="decay"/> is NaN or outside [0, 1].</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static void Run(Span<float> average, ReadOnlySpan<float> source, double decay, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(average, source, decay, backend);

    /// <summary>
    /// Updates one float32 average from a bfloat16 source; the source is widened exactly, nothing is rounded to bfloat16.
    /// </summary>
    /// <inheritdoc cref="Run(Span{float}, ReadOnlySpan{float}, double, AuxBackend)"/>
    public static void Run(Span<float> average, ReadOnlySpan<BFloat16> source, double decay, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(average, source, decay, backend);

    /// <summary>Updates one float32 average from a float16 source; the source is widened exactly, nothing is rounded to float16.</summary>
    /// <inheritdoc cref="Run(Span{float}, ReadOnlySpan{float}, double, AuxBackend)"/>
    public static void Run(Span<float> average, ReadOnlySpan<Half> source, double decay, AuxBackend backend = AuxBackend.Auto) =>
        RunSpan(average, source, decay, backend);

    /// <summary>Updates one average of any rank.</summary>
    /// <param name="average">The average, dense, updated in place.</param>
    /// <param name="source">The new values, dense, of the same shape; must not overlap <paramref name="average"/>.</param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">The shapes differ, a tensor is not dense, or they overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="decay"/> is NaN or outside [0, 1].</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static void Run(
        in TensorSpan<float> average, in ReadOnlyTensorSpan<float> source, double decay, AuxBackend backend = AuxBackend.Auto)
    {
        if (!average.Lengths.SequenceEqual(source.Lengths))
            throw new ArgumentException(
                $"source: shape {Format(source.Lengths)} does not match average {Format(average.Lengths)}", nameof(source));
        // Dense and strided alike: then both run through memory in the same order of elements.
        if (!average.IsDense || !source.IsDense || !average.Strides.SequenceEqual(source.Strides))
            throw new ArgumentException(
                $"source: strides {Format(source.Strides)} and average {Format(average.Strides)} must be equal and dense; "
                + "copy to dense tensors first",
                nameof(source));
        RunMemory(ref average.GetPinnableReference(), in source.GetPinnableReference(), average.FlattenedLength, decay, backend);
    }

    /// <summary>Updates one average in memory of any framework, on the host or on a device.</summary>
    /// <param name="average">The average: float32, contiguous, updated in place.</param>
    /// <param name="source">
    /// The new values: float32, bfloat16 or float16, contiguous, of the average's shape and on its device; must not overlap it.
    /// </param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without.</param>
    /// <remarks>On a device each call sends a table there and waits for it; an <see cref="EmaGroup"/> does so once.</remarks>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes or devices do not fit, a tensor is not contiguous, they overlap, what is said to be device memory is not, or the
    /// stream is of another device. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="decay"/> is NaN or outside [0, 1].</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    public static void Run(
        in TensorView average, in TensorView source, double decay, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null) =>
        Run(average, source, decay, default, backend, stream);

    /// <summary>The op's one entry below the checks, for host memory.</summary>
    internal static void Run(in EmaWork work, ReadOnlySpan<double> decays, AuxBackend backend)
    {
        IDisposable? table = null;
        try
        {
            Run(work, decays, backend, new EmaPlace(AuxDevice.Host), ref table);
        }
        finally
        {
            table?.Dispose(); // there is one only where a test runs ILGPU on the host
        }
    }

    /// <summary>The op's one entry below the checks.</summary>
    /// <param name="work">What to update.</param>
    /// <param name="decays">One an average, each within [0, 1].</param>
    /// <param name="backend">Resolved: not Auto.</param>
    /// <param name="place">Where the memory is.</param>
    /// <param name="table">What a device backend keeps from one call to the next with the same addresses; null at first.</param>
    internal static void Run(in EmaWork work, ReadOnlySpan<double> decays, AuxBackend backend, EmaPlace place, ref IDisposable? table)
    {
        if (backend == AuxBackend.Cuda && work.HasBFloat16Averages && !work.HasOnlyBFloat16Averages)
            throw new BackendUnavailableException(
                nameof(EmaUpdate), backend, "its kernels take averages of one type; make a group for those in bfloat16");
        if (backend == AuxBackend.Ilgpu && work.HasBFloat16Averages)
            throw new BackendUnavailableException(
                nameof(EmaUpdate), backend, "its kernel takes float32 averages only; averages in bfloat16 run on Cpu and Cuda");
        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(work, decays);
                break;
            case AuxBackend.Reference:
                RunReference(work, decays);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, decays, place, ref table);
                break;
            case AuxBackend.Ilgpu when IlgpuShim.IsSupported:
                RunIlgpu(work, decays, place, ref table);
                break;
            default:
                throw new BackendUnavailableException(nameof(EmaUpdate), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    internal static void CheckDecay(double decay, string name)
    {
        if (!(decay >= 0 && decay <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(name, decay, "A decay lies within [0, 1].");
    }

    private static void RunSpan<T>(Span<float> average, ReadOnlySpan<T> source, double decay, AuxBackend backend) where T : unmanaged
    {
        if (average.Length != source.Length)
            throw new ArgumentException($"source: {source.Length} elements do not match average's {average.Length}", nameof(source));
        RunMemory(ref MemoryMarshal.GetReference(average), in MemoryMarshal.GetReference(source), average.Length, decay, backend);
    }

    private static unsafe void RunMemory<T>(ref float average, ref readonly T source, nint count, double decay, AuxBackend backend)
        where T : unmanaged
    {
        CheckDecay(decay, nameof(decay));
        backend = Support.Resolve(backend, AuxDevice.Host);
        fixed (float* e = &average)
        fixed (T* p = &source)
        {
            if (count > 0 && (void*)e < p + count && (void*)p < e + count)
                throw new ArgumentException("source overlaps average", nameof(source));

            var addresses = stackalloc nint[] { (nint)p, (nint)e };
            var offsets = stackalloc long[] { 0, count };
            var dtype = DTypes.Of<T>();
            Run(new EmaWork(addresses, offsets, &dtype, tensorCount: 1, averageCount: 1), [decay], backend);
        }
    }

    private static string Format(ReadOnlySpan<nint> lengths) => TensorView.Format([.. lengths.ToArray().Select(length => (long)length)]);
}
