using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Writes predicted keys and values into the caches of all layers of a model: KV Prediction (Horton et al. 2024, arXiv 2410.08391) runs a
/// small model over the prompt and projects its keys and values to those of the large one, an affine map a layer. The products of matrices
/// are the caller's; this is all that follows them, in one pass: bias, RMS norm of keys, where the large model has one, rotation,
/// quantising and storing.
/// </summary>
/// <remarks>
/// <para>Arithmetic and guarantees are those of <see cref="KvAppend"/>; the bias is added first, in float32. Without
/// <see cref="RotaryOptions"/> keys are stored before rotation, as OpenELM caches them.</para>
/// <para>Call it for a block of rows at a time, layer by layer, and the products are still in the cache. Threads share the tokens of each
/// layer. Thread-safe, as far as no two calls write the same rows.</para>
/// </remarks>
public static partial class KvPredictWrite
{
    internal static readonly OpSupport Support = new(
        nameof(KvPredictWrite),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, "it has no CUDA kernel yet; keep the caches on the host"),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel; keep the caches on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Writes tokens into the caches of any number of layers.</summary>
    /// <param name="layers">The layers, all of one T, d and dtype; none is allowed.</param>
    /// <param name="places">Where the tokens go.</param>
    /// <param name="rotary">How keys are rotated; null where they are not.</param>
    /// <param name="normEpsilon">ε of the norms, finite and not negative.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <exception cref="KvCapacityException">A slot is beyond the capacity of a sequence in a layer. Nothing was written.</exception>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes, strides or devices do not fit, slots do not ascend, positions descend, or what is written overlaps something.
    /// Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A sequence, slot or position is out of range, or ε or a scale is not a number that can be one. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static void Run(
        ReadOnlySpan<KvPredictLayer> layers, in KvTokenPlaces places, RotaryOptions? rotary = null,
        double normEpsilon = KvAppend.DefaultNormEpsilon, AuxBackend backend = AuxBackend.Auto)
    {
        var device = layers.IsEmpty ? AuxDevice.Host : layers[0].Keys.Device;
        var works = KvPredictWork.Of(layers, places, rotary, normEpsilon);
        backend = Support.Resolve(backend, device);
        if (device.Kind == AuxDeviceKind.Host)
            KvPredictWork.CheckPlaces(works);
        if (backend == AuxBackend.Cpu)
            RunCpu(works);
        else
            RunReference(works);
        Support.Count(backend);
        foreach (ref readonly var layer in layers)
            layer.KeepAlive();
        places.KeepAlive();
    }
}
