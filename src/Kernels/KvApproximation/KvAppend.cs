using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Appends tokens to a KV cache: RMS norm of each head of queries and keys (Zhang and Sennrich 2019, arXiv 1910.07467), where a model has
/// one, rotary embedding (Su et al. 2021, arXiv 2104.09864), and storing keys and values in the cache's formats, contiguous or paged. One
/// call does what models write as a dozen tensor operations.
/// </summary>
/// <remarks>
/// <para>x ← w · x / √(mean(x²) + ε): squares and their sum in double, 1 / √ rounded to float32, two products in float32. Rotation: (a, b)
/// becomes (a cos φ − b sin φ, b cos φ + a sin φ), φ = position · frequency; angles, cosines and sines in double, rounded to float32,
/// products and sums in float32. The result is stored as <see cref="KvQuantise"/> stores it. Without <see cref="RotaryOptions"/> nothing is
/// rotated: keys are then cached as they are before rotation.</para>
/// <para>Each token is for itself, so appending one by one gives the bytes of appending in bulk; and the bytes depend neither on the vector
/// width nor on the number of threads. A NaN stays in its row. Nothing but the rows named by slots is written. The methods are thread-safe,
/// as far as no two write the same rows.</para>
/// <para>On CUDA, heads have 8 to 256 elements, a multiple of 8, and frequencies are at most 1024 radians. Sequences, slots and page tables
/// in device memory are not looked at before: a row that has no place in the cache is not written. The bytes are those of the CPU, as far
/// as cosines and sines round alike. In KIVI-4 slots of a sequence follow each other one by one there too, though nothing checks it.</para>
/// </remarks>
public static partial class KvAppend
{
    /// <summary>The ε of norms where none is given.</summary>
    public const double DefaultNormEpsilon = 1e-6;

    internal static readonly OpSupport Support = new(
        nameof(KvAppend),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel; keep the cache on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Appends tokens to one layer's cache.</summary>
    /// <param name="tokens">What is appended, and where.</param>
    /// <param name="cache">The cache; its rows at the slots are written. Keys and values share no memory with each other or the tokens.
    /// </param>
    /// <param name="rotary">How queries and keys are rotated; null where they are not.</param>
    /// <param name="normEpsilon">ε of the norms, finite and not negative.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <exception cref="KvCapacityException">A slot is beyond the capacity of its sequence. Nothing was written.</exception>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes, strides or devices do not fit, slots do not ascend, positions descend, or what is written overlaps something.
    /// Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A sequence, slot or position is out of range, or ε or a scale is not a number that can be one. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static void Run(
        in KvAppendTensors tokens, in KvCacheViews cache, RotaryOptions? rotary = null, double normEpsilon = DefaultNormEpsilon,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        var device = tokens.Keys.Device;
        var work = KvAppendWork.Of(tokens, cache, rotary, normEpsilon);
        backend = Support.Resolve(backend, device);
        if (device.Kind == AuxDeviceKind.Host)
            work.CheckPlaces();
        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(work);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, device, CudaStream.HandleOn(stream, device, nameof(stream)));
                break;
            default:
                RunReference(work);
                break;
        }

        Support.Count(backend);
        tokens.KeepAlive();
        cache.KeepAlive();
        GC.KeepAlive(stream);
    }
}
