using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Keys and values of a KV cache between float32 and the formats in which they are stored. The formulas of <see cref="KvFormat.Q8_0"/> and
/// <see cref="KvFormat.Q4_0"/> are those of llama.cpp's scalar quantisers (<c>quantize_row_q8_0_ref</c>, <c>quantize_row_q4_0_ref</c> in
/// <c>ggml-quants.c</c>), and so are the bytes.
/// </summary>
/// <remarks>
/// <para>q8_0: d = max|x| / 127, q = round(x · (1 / d)), halves away from zero. q4_0: d = x₀ / −8, q = min(15, ⌊x · (1 / d) + 8.5⌋). All of
/// it in float32; d is then rounded to binary16. Errors are at most max|x| / 254 and, for q4_0, max|x| / 16, or max|x| / 8 where the
/// greatest of the other sign is clipped; to each comes |q| times the rounding of d, at most 2⁻¹¹ · d or 2⁻²⁵.</para>
/// <para>KIVI-4: m is the least element rounded down to binary16, s = (max − m) / 15 rounded up to binary16, q = ⌊(x − m) · (1 / s) + ½⌋.
/// So nothing is clipped, and errors are at most s / 2; s exceeds (max − min) / 15 by the roundings alone, and is 0 where all elements are
/// m. The paper rounds both to nearest.</para>
/// <para>Where llama.cpp's formulas end in undefined conversions or infinities, this is defined. A group with a NaN or an infinity has a
/// NaN scale, and all of it reads as NaN. A group whose scale exceeds binary16 has the scale ±65504, and elements that are too large are
/// clipped. A group whose 1 / d overflows float32 is all zeros. A group of zeros has the scale 0, negative for q4_0, and reads as zeros.
/// In KIVI-4 a constant group has the scale 0 where its element is a binary16; m lies within ±65504.</para>
/// <para>Floating-point formats keep NaN a NaN, and the sign of zero. The same bytes come from any number of threads and any vector width.
/// The methods are thread-safe.</para>
/// <para>On CUDA, elements are aligned to 4 bytes and stored numbers of a 16-bit format to 2; where addresses are multiples of 16, accesses
/// are of 16 bytes. The bytes are those of the CPU.</para>
/// <para>On ILGPU there is <see cref="KvFormat.Q8_0"/> alone, with the bytes of the CPU; other formats are refused. Elements are aligned to
/// 4 bytes, groups are anywhere.</para>
/// </remarks>
public static partial class KvQuantise
{
    internal static readonly OpSupport Support = new(
        nameof(KvQuantise),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Quantises.</summary>
    /// <param name="source">n elements; n is a multiple of the format's groups. May be empty.</param>
    /// <param name="format">How they are stored.</param>
    /// <param name="destination">As many bytes as <see cref="KvFormats.ByteCount"/> says. Shares no memory with the source.</param>
    /// <param name="scale">For <see cref="KvFormat.Fp8E4M3"/>, what 1 stands for: finite and above 0. 1 for all others.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, or the spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">Not a KvFormat, or not a scale for it. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run(
        ReadOnlySpan<float> source, KvFormat format, Span<byte> destination, float scale = 1, AuxBackend backend = AuxBackend.Auto)
    {
        RequireLength(
            nameof(destination), destination.Length, RequireElements(nameof(source), source.Length, format), source.Length, format);
        fixed (float* elements = source)
        fixed (byte* bytes = destination)
            Run(new(source.Length, format, scale, elements, bytes, isRestore: false), backend, AuxDevice.Host);
    }

    /// <summary>Dequantises: gives the numbers that the bytes stand for.</summary>
    /// <param name="source">As many bytes as <see cref="KvFormats.ByteCount"/> says of n elements. May be empty.</param>
    /// <param name="format">How they are stored.</param>
    /// <param name="destination">n elements. Shares no memory with the source.</param>
    /// <param name="scale">The scale that <see cref="KvFormat.Fp8E4M3"/> was quantised with. 1 for all others.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, or the spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">Not a KvFormat, or not a scale for it. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Dequantise(
        ReadOnlySpan<byte> source, KvFormat format, Span<float> destination, float scale = 1, AuxBackend backend = AuxBackend.Auto)
    {
        RequireLength(
            nameof(source), source.Length, RequireElements(nameof(destination), destination.Length, format), destination.Length, format);
        fixed (byte* bytes = source)
        fixed (float* elements = destination)
            Run(new(destination.Length, format, scale, elements, bytes, isRestore: true), backend, AuxDevice.Host);
    }

    /// <summary>Quantises memory of any framework.</summary>
    /// <param name="source">float32 [..., d], contiguous; d is a multiple of the format's groups, so that no group spans two rows.</param>
    /// <param name="format">How it is stored.</param>
    /// <param name="destination">uint8 [..., bytes of d elements], contiguous. Shares no memory with the source.</param>
    /// <param name="scale">For <see cref="KvFormat.Fp8E4M3"/>, what 1 stands for: finite and above 0. 1 for all others.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <exception cref="ArgumentException">Dtypes, shapes or devices do not fit, a tensor is not contiguous, or they overlap. Nothing was
    /// written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">Not a KvFormat, or not a scale for it. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static unsafe void Run(
        in TensorView source, KvFormat format, in TensorView destination, float scale = 1, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        RequireViews(source, nameof(source), format, destination, nameof(destination));
        Run(
            new(source.ElementCount, format, scale, (float*)source.Address, (byte*)destination.Address, isRestore: false), backend,
            source.Device, CudaStream.HandleOn(stream, source.Device, nameof(stream)));
        TensorArguments.KeepAlive(source.Owner, destination.Owner, stream);
    }

    /// <summary>Dequantises memory of any framework.</summary>
    /// <param name="source">uint8 [..., bytes of d elements], contiguous.</param>
    /// <param name="format">How it is stored.</param>
    /// <param name="destination">float32 [..., d], contiguous. Shares no memory with the source.</param>
    /// <param name="scale">The scale that <see cref="KvFormat.Fp8E4M3"/> was quantised with. 1 for all others.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <exception cref="ArgumentException">Dtypes, shapes or devices do not fit, a tensor is not contiguous, or they overlap. Nothing was
    /// written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">Not a KvFormat, or not a scale for it. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static unsafe void Dequantise(
        in TensorView source, KvFormat format, in TensorView destination, float scale = 1, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        RequireViews(destination, nameof(destination), format, source, nameof(source));
        Run(
            new(destination.ElementCount, format, scale, (float*)destination.Address, (byte*)source.Address, isRestore: true), backend,
            source.Device, CudaStream.HandleOn(stream, source.Device, nameof(stream)));
        TensorArguments.KeepAlive(source.Owner, destination.Owner, stream);
    }

    /// <summary>The op's one entry below the checks of shapes.</summary>
    private static void Run(in KvQuantiseWork work, AuxBackend backend, AuxDevice device, nint stream = 0)
    {
        work.RequireScale();
        work.RequireDisjoint();
        backend = Support.Resolve(backend, device);
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
            case AuxBackend.Ilgpu when IlgpuShim.IsSupported:
                RunIlgpu(work, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(KvQuantise), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    private static long RequireElements(string name, long elements, KvFormat format)
    {
        var group = format.GroupSize();
        if (elements % group != 0)
            throw new ArgumentException($"{name}: {elements} elements are not a multiple of {group}, the groups of {format}", name);
        return format.ByteCount(elements);
    }

    private static void RequireLength(string name, long actual, long expected, long elements, KvFormat format)
    {
        if (actual != expected)
            throw new ArgumentException($"{name}: {actual} bytes, but {elements} elements of {format} take {expected}", name);
    }

    private static void RequireViews(
        in TensorView elements, string elementsName, KvFormat format, in TensorView bytes, string bytesName)
    {
        if (elements.Shape.IsEmpty)
            throw new ArgumentException($"{elementsName}: {elements} has no dimension", elementsName);
        TensorArguments.Require(elements, elementsName, [DType.Float32], elements.Shape, elements.Device, elementsName);
        var row = elements.Shape[^1];
        if (row % format.GroupSize() != 0)
        {
            throw new ArgumentException(
                $"{elementsName}: {elements}, whose rows are not a multiple of {format.GroupSize()}, the groups of {format}", elementsName);
        }

        long[] shape = [.. elements.Shape[..^1], format.ByteCount(row)];
        TensorArguments.Require(bytes, bytesName, [DType.UInt8], shape, elements.Device, bytesName);
    }
}
