using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Attention of one new token over a KV cache, with grouped-query heads: o = Σ softmax(s · q·k) v over the positions that are filled. Keys
/// and values are read in the format that they are stored in; no dequantised copy is made. The cache is parted into chunks of positions,
/// whose results merge by their maxima and sums (split-KV: Dao et al. 2023, Flash-Decoding; online softmax: Milakov and Gimelshein 2018,
/// arXiv 1805.02867).
/// </summary>
/// <remarks>
/// <para>Arithmetic. Elements are restored exactly as <see cref="KvQuantise"/> does it; products, the exponential and sums are in float32.
/// Chunks have 512 positions and merge in their order, so the same call gives the same bits on any number of threads. The order of sums
/// within a chunk depends on the vector width.</para>
/// <para>A sequence of length 0 gives zeros. A NaN in a query, or in a key or value of a position that is filled, gives NaN in the heads
/// that read it; so do scores that are all −∞, or +∞. Positions from the length on are never read. The methods are thread-safe.</para>
/// <para><see cref="KvFormat.Fp8E4M3"/> is refused: its scales have no place here yet.</para>
/// </remarks>
public static partial class KvDecodeAttention
{
    private static readonly KvFormat[] Formats = [KvFormat.F32, KvFormat.F16, KvFormat.BF16, KvFormat.Q8_0, KvFormat.Q4_0];

    internal static readonly OpSupport Support = new(
        nameof(KvDecodeAttention),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, "it has no CUDA kernel yet; keep the cache on the host"),
        (AuxBackend.Ilgpu, "it has no ILGPU kernel yet; keep the cache on the host"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>One token of each sequence.</summary>
    /// <param name="query">[B, Hq, d], row-major.</param>
    /// <param name="keys">The bytes of [B, Hkv, Nmax, d] elements.</param>
    /// <param name="keyFormat">How keys are stored; d is a multiple of its groups. Not FP8.</param>
    /// <param name="values">The bytes of [B, Hkv, Nmax, d] elements.</param>
    /// <param name="valueFormat">How values are stored; d is a multiple of its groups. Not FP8.</param>
    /// <param name="lengths">[B]: how many positions are filled, within 0 and Nmax.</param>
    /// <param name="shape">B, Hq, Hkv, d and Nmax.</param>
    /// <param name="output">[B, Hq, d]. Shares memory with nothing else.</param>
    /// <param name="scale">s; 1 / √d without.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">
    /// Heads or groups do not divide, a format is not supported, lengths of spans do not fit, or the output overlaps something. Nothing was
    /// written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A size is below 1, a length is outside 0 and Nmax, the scale is not finite, or not a KvFormat. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void Run(
        ReadOnlySpan<float> query, ReadOnlySpan<byte> keys, KvFormat keyFormat, ReadOnlySpan<byte> values, KvFormat valueFormat,
        ReadOnlySpan<int> lengths, KvAttentionShape shape, Span<float> output, double? scale = null, AuxBackend backend = AuxBackend.Auto)
    {
        Check(shape, keyFormat, valueFormat, lengths, scale);
        TensorArguments.RequireLength(nameof(query), query.Length, [shape.Batch, shape.QueryHeads, shape.HeadDim]);
        TensorArguments.RequireLength(nameof(output), output.Length, [shape.Batch, shape.QueryHeads, shape.HeadDim]);
        RequireBytes(nameof(keys), keys.Length, keyFormat, shape);
        RequireBytes(nameof(values), values.Length, valueFormat, shape);
        fixed (float* q = query, o = output)
        fixed (byte* k = keys, v = values)
        fixed (int* filled = lengths)
            Run(new(shape, q, k, keyFormat, v, valueFormat, filled, Scale(scale, shape), o), backend, AuxDevice.Host);
    }

    /// <summary>One token of each sequence, in memory of any framework.</summary>
    /// <param name="query">float32 [B, Hq, d], contiguous.</param>
    /// <param name="keys">uint8 [B, Hkv, Nmax, bytes of d elements], contiguous; or [B, Hkv, Nmax, d] of the format's own dtype.</param>
    /// <param name="keyFormat">How keys are stored; d is a multiple of its groups. Not FP8.</param>
    /// <param name="values">As <paramref name="keys"/>.</param>
    /// <param name="valueFormat">How values are stored; d is a multiple of its groups. Not FP8.</param>
    /// <param name="lengths">[B]: how many positions are filled, within 0 and Nmax.</param>
    /// <param name="output">float32 [B, Hq, d], contiguous. Shares memory with nothing else.</param>
    /// <param name="scale">s; 1 / √d without.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes or devices do not fit, a tensor is not contiguous, heads or groups do not divide, a format is not supported,
    /// or the output overlaps something. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A size is below 1, a length is outside 0 and Nmax, the scale is not finite, or not a KvFormat. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static unsafe void Run(
        in TensorView query, in TensorView keys, KvFormat keyFormat, in TensorView values, KvFormat valueFormat, ReadOnlySpan<int> lengths,
        in TensorView output, double? scale = null, AuxBackend backend = AuxBackend.Auto)
    {
        var shape = ShapeOf(query, keys);
        Check(shape, keyFormat, valueFormat, lengths, scale);
        long[] tokens = [shape.Batch, shape.QueryHeads, shape.HeadDim];
        TensorArguments.Require(query, nameof(query), [DType.Float32], tokens, query.Device, nameof(query));
        TensorArguments.Require(output, nameof(output), [DType.Float32], tokens, query.Device, nameof(output));
        RequireCache(keys, nameof(keys), keyFormat, shape, query.Device);
        RequireCache(values, nameof(values), valueFormat, shape, query.Device);
        fixed (int* filled = lengths)
        {
            var work = new KvAttentionWork(
                shape, (float*)query.Address, (byte*)keys.Address, keyFormat, (byte*)values.Address, valueFormat, filled,
                Scale(scale, shape), (float*)output.Address);
            Run(work, backend, query.Device);
        }

        TensorArguments.KeepAlive(query.Owner, keys.Owner, values.Owner, output.Owner);
    }

    /// <summary>The op's one entry below the checks.</summary>
    private static void Run(in KvAttentionWork work, AuxBackend backend, AuxDevice device)
    {
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
            default:
                throw new BackendUnavailableException(nameof(KvDecodeAttention), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    private static double Scale(double? scale, KvAttentionShape shape) => scale ?? 1 / Math.Sqrt(shape.HeadDim);

    private static void Check(
        KvAttentionShape shape, KvFormat keyFormat, KvFormat valueFormat, ReadOnlySpan<int> lengths, double? scale)
    {
        shape.Check();
        RequireFormat(nameof(keyFormat), keyFormat, shape);
        RequireFormat(nameof(valueFormat), valueFormat, shape);
        TensorArguments.RequireLength(nameof(lengths), lengths.Length, shape.Batch, nameof(lengths));
        for (var b = 0; b < lengths.Length; b++)
        {
            if ((uint)lengths[b] > (uint)shape.Capacity)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(lengths), lengths[b], $"lengths[{b}] is not within 0 and the capacity, {shape.Capacity}.");
            }
        }

        if (scale is { } s && !double.IsFinite(s))
            throw new ArgumentOutOfRangeException(nameof(scale), s, "A scale is finite.");
    }

    private static void RequireFormat(string name, KvFormat format, KvAttentionShape shape)
    {
        var group = format.GroupSize();
        if (!Formats.Contains(format))
            throw new ArgumentException($"{name}: {format} is not supported here; {string.Join(", ", Formats)} are", name);
        if (shape.HeadDim % group != 0)
            throw new ArgumentException($"{name}: heads of {shape.HeadDim} are not a multiple of {group}, the groups of {format}", name);
    }

    private static void RequireBytes(string name, long actual, KvFormat format, KvAttentionShape shape)
    {
        var expected = format.ByteCount(shape.CacheElements);
        if (actual != expected)
        {
            throw new ArgumentException(
                $"{name}: {actual} bytes, but {format} of shape "
                + $"[{shape.Batch}, {shape.KvHeads}, {shape.Capacity}, {shape.HeadDim}] takes {expected}", name);
        }
    }

    private static KvAttentionShape ShapeOf(in TensorView query, in TensorView keys)
    {
        if (query.Shape.Length != 3)
            throw new ArgumentException($"query: {query} is not of rank 3, [B, Hq, d]", nameof(query));
        if (keys.Shape.Length != 4)
            throw new ArgumentException($"keys: {keys} is not of rank 4, [B, Hkv, Nmax, …]", nameof(keys));
        return new(
            Size(query, 0, nameof(query)), Size(query, 1, nameof(query)), Size(keys, 1, nameof(keys)), Size(query, 2, nameof(query)),
            Size(keys, 2, nameof(keys)));

        static int Size(in TensorView view, int dimension, string name) => view.Shape[dimension] <= int.MaxValue
            ? (int)view.Shape[dimension]
            : throw new ArgumentException($"{name}: {view} has a size beyond {int.MaxValue}", name);
    }

    private static void RequireCache(in TensorView view, string name, KvFormat format, KvAttentionShape shape, AuxDevice device)
    {
        DType? own = format switch
        {
            KvFormat.F32 => DType.Float32,
            KvFormat.F16 => DType.Float16,
            KvFormat.BF16 => DType.BFloat16,
            _ => null,
        };
        var row = view.DType == own ? shape.HeadDim : format.ByteCount(shape.HeadDim);
        TensorArguments.Require(
            view, name, own is { } dtype ? [dtype, DType.UInt8] : [DType.UInt8], [shape.Batch, shape.KvHeads, shape.Capacity, row],
            device, name);
    }
}
