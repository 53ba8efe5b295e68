using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Moves cached keys to other positions: rotary embeddings turn keys by their position, so keys that were cached after that are turned by
/// the difference of positions. It is needed where positions are renumbered after pruning, as in PyramidDrop (Xing et al. 2024,
/// arXiv 2410.17247); where they are kept, nothing is.
/// </summary>
/// <remarks>
/// (a, b) becomes (a cos φ − b sin φ, b cos φ + a sin φ) with φ = difference · frequency: angles, cosines and sines in double, rounded to
/// float32; products and sums in float32, rounded to the dtype. A difference of 0 leaves a key as it is, bit for bit. Threads share heads.
/// Thread-safe, as far as no two calls write the same keys. On a device at most 256 elements of a head are rotated, and angles of 2^31 and
/// more give NaN.
/// </remarks>
public static partial class KeyRerotate
{
    internal static readonly OpSupport Support = new(
        nameof(KeyRerotate),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "its ILGPU kernel is not written; keep the keys on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Turns keys in place.</summary>
    /// <typeparam name="T">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <param name="keys">[heads, L, depth], row-major; heads follow from its length.</param>
    /// <param name="depth">Elements of a head.</param>
    /// <param name="differences">[rows, L]: new position less old one; as many rows as there are sections, 1 without.</param>
    /// <param name="options">How the model rotates keys.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">
    /// Lengths or options do not fit, spans overlap, or T is another type. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run<T>(
        Span<T> keys, int depth, ReadOnlySpan<int> differences, RotaryOptions options, AuxBackend backend = AuxBackend.Auto)
        where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        TensorArguments.RequireAtLeastOne(nameof(depth), depth);
        var rows = Math.Max(1, options.Sections.Count);
        if (differences.Length % rows != 0)
            throw new ArgumentException($"differences: {differences.Length} elements are not {rows} rows", nameof(differences));
        var tokens = differences.Length / rows;
        var heads = tokens == 0 ? 0 : keys.Length / depth / tokens;
        TensorArguments.RequireLength(nameof(keys), keys.Length, [heads, tokens, depth]);
        fixed (T* k = keys)
        fixed (int* d = differences)
        {
            Run(
                [TensorView.FromPointer(k, DTypes.Of<T>(), [heads, tokens, depth])],
                TensorView.FromPointer(d, DType.Int32, [rows, tokens]), options, backend);
        }
    }

    /// <summary>Turns the keys of any number of layers in place, in memory of any framework.</summary>
    /// <param name="keys">
    /// float32, bfloat16 or float16 [heads, L, depth] or [B, heads, L, depth], all of one L and depth. They may have strides, as views into
    /// larger caches do, but the elements of a head lie side by side, and no element is there twice.
    /// </param>
    /// <param name="differences">int32 [rows, L], contiguous: new position less old one, for all of the batch.</param>
    /// <param name="options">How the model rotates keys.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes, strides, devices or options do not fit, or memory overlaps. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static void Run(
        ReadOnlySpan<TensorView> keys, in TensorView differences, RotaryOptions options, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        var work = RerotateWork.Of(keys, differences, options);
        var device = differences.Device;
        backend = Support.Resolve(backend, device);
        if (backend == AuxBackend.Cuda)
            RunCuda(work, device, CudaStream.HandleOn(stream, device, nameof(stream)));
        else if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
        Support.Count(backend);
        foreach (ref readonly var layer in keys)
            TensorArguments.KeepAlive(layer.Owner);
        TensorArguments.KeepAlive(differences.Owner, stream);
    }
}
