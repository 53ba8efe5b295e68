using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Evicts positions from a KV cache, each head its own: smooths scores, keeps those of the greatest, and moves their keys and values
/// together, in place and in their order. It is what methods such as SnapKV (Li et al. 2024, arXiv 2404.14469), H2O, TOVA and AdaKV have in
/// common behind their scores; what is left frees memory, where masks do not.
/// </summary>
/// <remarks>
/// <para>Scores are ranked as in <see cref="TokenSelect"/>, whose selection this is, with a segment a head: greater first, of equal ones
/// the lower position, NaN last; so what is kept does not depend on backend, vector width or threads. Means of <see
/// cref="KvEvictOptions.PoolWidth"/> are summed in double in the order of positions, divided and rounded to float32.</para>
/// <para>Rows are moved as they are, in any format whose rows stand for themselves: not keys in <see cref="KvFormat.Kivi4"/>, of which 32
/// share their scales. Behind the kept rows everything stays as it was. Thread-safe, as far as no two calls write the same cache.</para>
/// <para>On CUDA, heads have 8 to 256 elements, a multiple of 8, and addresses and strides of the cache are even. Device memory is not
/// waited for, so what lengths, counts and page tables say is not checked: they are held within what there is room for, and a head that is
/// shorter than <see cref="Budget.Count"/> keeps all.</para>
/// </remarks>
public static partial class KvEvict
{
    internal static readonly OpSupport Support = new(
        nameof(KvEvict),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel; keep the cache on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>The bytes of workspace that a call in device memory needs.</summary>
    /// <param name="batch">B, at least 1.</param>
    /// <param name="kvHeads">Hkv, at least 1.</param>
    /// <param name="positions">N, the positions that there are scores for, at least 0; 2^30 of a sequence's heads at most.</param>
    /// <exception cref="ArgumentException">A number is out of its range.</exception>
    /// <exception cref="BackendUnavailableException">There is no CUDA here.</exception>
    public static long WorkspaceBytes(int batch, int kvHeads, int positions)
    {
        NativeStatus.Check(Native.KvEvictWorkspace(batch, kvHeads, positions, out var bytes), nameof(KvEvict));
        return bytes;
    }

    /// <summary>Evicts from one layer's cache.</summary>
    /// <param name="scores">
    /// float32 [B, Hkv, N], contiguous; N is at least the greatest length. What is behind a length is not read.
    /// </param>
    /// <param name="lengths">int32 [B, Hkv], contiguous: how many positions are filled; becomes how many are kept.</param>
    /// <param name="cache">The cache, contiguous or paged.</param>
    /// <param name="options">What is kept.</param>
    /// <param name="positions">
    /// int32 [B, Hkv, M], contiguous, or left out: a number of each row, such as its position in the text, that moves with it. M is at
    /// least the greatest length.
    /// </param>
    /// <param name="counts">
    /// int32 [B, Hkv], contiguous, not negative, instead of <see cref="KvEvictOptions.Budget"/>: how many positions each head keeps; all
    /// where it has fewer. Where heads share, it is their sum that they share, also that of counts which exceed a head's length.
    /// </param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// For device memory: uint8 [n], aligned to 256 bytes, whose contents become undefined; <see cref="WorkspaceBytes"/> says how many.
    /// </param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <exception cref="ArgumentException">
    /// Shapes, dtypes or devices do not fit, a head is shorter than <see cref="Budget.Count"/>, there are both a budget and counts, or
    /// neither, the format is KIVI, or memory overlaps. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A length is beyond the capacity or the scores, a count is negative, or an option is out of range. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static void Run(
        in TensorView scores, in TensorView lengths, in KvCacheViews cache, KvEvictOptions options, TensorView positions = default,
        TensorView counts = default, AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        KvEvictOptions.Check(options, TensorArguments.IsWanted(counts));
        var work = KvEvictWork.Of(scores, lengths, cache, positions, counts, options);
        backend = Support.Resolve(backend, scores.Device);
        var on = CudaStream.HandleOn(stream, scores.Device, nameof(stream));
        if (scores.Device.Kind == AuxDeviceKind.Host)
            work.CheckLengths();
        if (backend == AuxBackend.Cuda)
            RunCuda(work, workspace, scores.Device, on);
        else if (backend == AuxBackend.Cpu)
            RunCpu(work);
        else
            RunReference(work);
        Support.Count(backend);
        TensorArguments.KeepAlive(scores.Owner, lengths.Owner, positions.Owner, counts.Owner, workspace.Owner, stream);
        cache.KeepAlive();
    }
}
