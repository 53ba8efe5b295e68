using System.Numerics.Tensors;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What <see cref="ScatterEma"/> does with NaN.</summary>
public enum NaNPolicy
{
    /// <summary>NaN is a number like any other: on either side it gives NaN, and an entry that is NaN stays so.</summary>
    Propagate,

    /// <summary>
    /// NaN is a value that is not there: a NaN among the values changes nothing, and an entry that is NaN takes its first value as it is.
    /// A history that begins as NaN so begins with the first value seen instead of drawing away from 0.
    /// </summary>
    Missing,
}

/// <summary>
/// Exponential moving averages of scattered values: history[index[j]] ← β · history[index[j]] + (1 − β) · value[j], for j in order. It
/// keeps a history for each sample of a data set, such as the losses by which Sample Adaptive Augmentation chooses (Gui et al. 2023,
/// arXiv 2309.03598), where a batch brings values of a few samples.
/// </summary>
/// <remarks>
/// The arithmetic of each step is that of <see cref="EmaUpdate"/>. An index that occurs several times is updated several times, in the
/// order in which it occurs. Work is proportional to the number of values and runs on the calling thread. The methods are thread-safe, as
/// far as no two write one history.
/// </remarks>
public static partial class ScatterEma
{
    internal static readonly OpSupport Support = new(
        nameof(ScatterEma),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, "it has no CUDA kernel; a batch of values is small, keep the history on the host"),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel; a batch of values is small, keep the history on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Updates the entries that an index names.</summary>
    /// <param name="history">n entries, updated in place.</param>
    /// <param name="index">m numbers within [0, n); repetitions are allowed.</param>
    /// <param name="value">m values; must not overlap <paramref name="history"/>.</param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="nan">What NaN means.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <exception cref="ArgumentException">The lengths of index and value differ, or spans overlap. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// An index is outside the history, the decay is NaN or outside [0, 1], or the policy is none. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Update(
        Span<float> history, ReadOnlySpan<long> index, ReadOnlySpan<float> value, double decay, NaNPolicy nan = NaNPolicy.Propagate,
        AuxBackend backend = AuxBackend.Auto)
    {
        fixed (float* h = history, v = value)
        fixed (long* i = index)
            Update(new(h, history.Length, i, DType.Int64, index.Length, v, value.Length), decay, nan, AuxDevice.Host, backend);
    }

    /// <inheritdoc cref="Update(Span{float}, ReadOnlySpan{long}, ReadOnlySpan{float}, double, NaNPolicy, AuxBackend)"/>
    public static unsafe void Update(
        Span<float> history, ReadOnlySpan<int> index, ReadOnlySpan<float> value, double decay, NaNPolicy nan = NaNPolicy.Propagate,
        AuxBackend backend = AuxBackend.Auto)
    {
        fixed (float* h = history, v = value)
        fixed (int* i = index)
            Update(new(h, history.Length, i, DType.Int32, index.Length, v, value.Length), decay, nan, AuxDevice.Host, backend);
    }

    /// <summary>Updates entries in memory of any framework.</summary>
    /// <param name="history">float32 [n], contiguous, updated in place.</param>
    /// <param name="index">int64 or int32 [m], contiguous; numbers within [0, n), repetitions are allowed.</param>
    /// <param name="value">float32 [m], contiguous; must not overlap <paramref name="history"/>.</param>
    /// <param name="decay">β, within [0, 1].</param>
    /// <param name="nan">What NaN means.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">
    /// Ranks, lengths, dtypes or devices do not fit, a tensor is not contiguous, or tensors overlap. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// An index is outside the history, the decay is NaN or outside [0, 1], or the policy is none. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or none runs on this memory.</exception>
    public static unsafe void Update(
        in TensorView history, in TensorView index, in TensorView value, double decay, NaNPolicy nan = NaNPolicy.Propagate,
        AuxBackend backend = AuxBackend.Auto)
    {
        Check(history, nameof(history), history.Device, DType.Float32);
        Check(index, nameof(index), history.Device, DType.Int64, DType.Int32);
        Check(value, nameof(value), history.Device, DType.Float32);
        var work = new ScatterWork(
            (float*)history.Address, history.ElementCount, (void*)index.Address, index.DType, index.ElementCount, (float*)value.Address,
            value.ElementCount);
        Update(work, decay, nan, history.Device, backend);
        GC.KeepAlive((history.Owner, index.Owner, value.Owner));
    }

    private static void Check(in TensorView view, string name, AuxDevice device, params ReadOnlySpan<DType> types)
    {
        if (view.Shape.Length != 1 || !types.Contains(view.DType) || !view.IsContiguous || view.Device != device)
        {
            var wanted = string.Join(" or ", types.ToArray().Select(type => type.Name()));
            throw new ArgumentException($"{name}: {view}; {wanted} of one dimension is needed, contiguous, on {device}", name);
        }
    }

    // Everything is checked before the first write.
    private static void Update(ScatterWork work, double decay, NaNPolicy nan, AuxDevice device, AuxBackend backend)
    {
        EmaUpdate.CheckDecay(decay, nameof(decay));
        if (!Enum.IsDefined(nan))
            throw new ArgumentOutOfRangeException(nameof(nan), nan, "Not a policy for NaN.");
        backend = Support.Resolve(backend, device);
        work.Check();
        var step = EmaStep.Of(decay);
        if (backend == AuxBackend.Cpu)
            RunCpu(work, step, nan);
        else
            RunReference(work, step, nan);
        Support.Count(backend);
    }

    /// <summary>The operands of one call.</summary>
    private readonly unsafe struct ScatterWork(
        float* history, long entries, void* index, DType indexType, long count, float* value, long values)
    {
        public float* History => history;

        public float* Value => value;

        public long* Index64 => (long*)index;

        public int* Index32 => (int*)index;

        public bool IsIndex64 => indexType == DType.Int64;

        public long Count => count;

        public long IndexAt(long j) => IsIndex64 ? Index64[j] : Index32[j];

        public void Check()
        {
            if (count != values)
                throw new ArgumentException($"value: {values} elements do not match index's {count}", nameof(value));
            if (Overlap(history, entries * sizeof(float), value, values * sizeof(float)))
                throw new ArgumentException("value overlaps history", nameof(value));
            if (Overlap(history, entries * sizeof(float), index, count * indexType.Size()))
                throw new ArgumentException("index overlaps history", nameof(index));
            if (LargestIndex() < (ulong)entries || count == 0)
                return;
            for (var j = 0L; j < count; j++)
            {
                if ((ulong)IndexAt(j) >= (ulong)entries)
                    throw new ArgumentOutOfRangeException(
                        nameof(index), IndexAt(j), $"index[{j}] is outside the history of {entries} entries.");
            }
        }

        // As numbers without a sign, so that negative ones are the largest. In pieces that a span can be of.
        private ulong LargestIndex()
        {
            const int Piece = 1 << 30;
            ulong largest = 0;
            for (var at = 0L; at < count; at += Piece)
            {
                var length = (int)Math.Min(Piece, count - at);
                largest = Math.Max(largest, IsIndex64
                    ? TensorPrimitives.Max(new ReadOnlySpan<ulong>(Index64 + at, length))
                    : Widened(TensorPrimitives.Max(new ReadOnlySpan<uint>(Index32 + at, length))));
            }

            return largest;

            static ulong Widened(uint index) => index > int.MaxValue ? ulong.MaxValue : index;
        }

        private static bool Overlap(void* left, long leftBytes, void* right, long rightBytes) =>
            leftBytes > 0 && rightBytes > 0 && (byte*)left < (byte*)right + rightBytes && (byte*)right < (byte*)left + leftBytes;
    }
}
