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
/// <para>A paged cache gives the bits of a contiguous one. Heads may be ragged: each has a length of its own. Where they are wanted, each
/// position's probabilities are summed over the query heads of its group, which H2O (Zhang et al. 2023, arXiv 2306.14048) and other
/// methods of eviction rank positions by: the heads in their order, in float32, so that they too repeat bit by bit.</para>
/// <para>On CUDA, heads have 8 to 256 elements, a multiple of 8, and addresses and strides of the cache are even. How many splits of
/// positions merge is decided by sizes alone, so repeated calls give the same bits there too. What lengths and page tables in device memory
/// say is not looked at before: it is held within what there is room for.</para>
/// <para>On ILGPU there are contiguous caches in <see cref="KvFormat.F32"/> alone, with heads of such sizes; other formats, pages, and sums
/// of positions are refused. What is said of CUDA's splits, bits and lengths holds there too.</para>
/// </remarks>
public static partial class KvDecodeAttention
{
    internal static readonly OpSupport Support = new(
        nameof(KvDecodeAttention),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, null));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>One token of each sequence.</summary>
    /// <param name="query">[B, Hq, d], row-major.</param>
    /// <param name="keys">The bytes of [B, Hkv, Nmax, d] elements.</param>
    /// <param name="keyFormat">How keys are stored; d is a multiple of its groups. Neither FP8 nor KIVI.</param>
    /// <param name="values">The bytes of [B, Hkv, Nmax, d] elements.</param>
    /// <param name="valueFormat">How values are stored; d is a multiple of its groups. Neither FP8 nor KIVI.</param>
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
            Run(Contiguous(shape, q, k, keyFormat, v, valueFormat, filled, scale, o), backend, AuxDevice.Host);
    }

    /// <summary>One token of each sequence, in memory of any framework.</summary>
    /// <param name="query">float32 [B, Hq, d], contiguous.</param>
    /// <param name="keys">uint8 [B, Hkv, Nmax, bytes of d elements], contiguous; or [B, Hkv, Nmax, d] of the format's own dtype.</param>
    /// <param name="keyFormat">How keys are stored; d is a multiple of its groups. Neither FP8 nor KIVI.</param>
    /// <param name="values">As <paramref name="keys"/>.</param>
    /// <param name="valueFormat">How values are stored; d is a multiple of its groups. Neither FP8 nor KIVI.</param>
    /// <param name="lengths">[B]: how many positions are filled, within 0 and Nmax.</param>
    /// <param name="output">float32 [B, Hq, d], contiguous. Shares memory with nothing else.</param>
    /// <param name="scale">s; 1 / √d without.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// For device memory: uint8 [n], aligned to 256 bytes, whose contents become undefined; <c>WorkspaceBytes</c> says how many.
    /// </param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
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
        in TensorView output, double? scale = null, AuxBackend backend = AuxBackend.Auto, TensorView workspace = default,
        CudaStream? stream = null)
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
            var work = Contiguous(
                shape, (float*)query.Address, (byte*)keys.Address, keyFormat, (byte*)values.Address, valueFormat, filled, scale,
                (float*)output.Address);
            Run(work, backend, query.Device, workspace, CudaStream.HandleOn(stream, query.Device, nameof(stream)));
        }

        TensorArguments.KeepAlive(query.Owner, keys.Owner, values.Owner, output.Owner, workspace.Owner, stream);
    }

    /// <summary>One token of each sequence over a contiguous or paged cache, whose heads may be ragged.</summary>
    /// <param name="query">float32 [B, Hq, d], contiguous.</param>
    /// <param name="cache">The cache; Hq is a multiple of its Hkv.</param>
    /// <param name="lengths">int32 [B], or [B, Hkv] where heads are ragged, contiguous: how many positions are filled.</param>
    /// <param name="output">float32 [B, Hq, d], contiguous. Shares memory with nothing else.</param>
    /// <param name="positionSums">
    /// float32 [B, Hkv, M], contiguous, or left out; M is at least the greatest length. To each position's element the probabilities that
    /// the query heads of the group give it are added. Positions from the length on are left as they were.
    /// </param>
    /// <param name="scale">s; 1 / √d without.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="workspace">
    /// For device memory: uint8 [n], aligned to 256 bytes, whose contents become undefined; <c>WorkspaceBytes</c> says how many.
    /// </param>
    /// <param name="stream">For device memory: the stream to work on, without waiting for it; without, the default one.</param>
    /// <exception cref="ArgumentException">
    /// Ranks, shapes, dtypes, strides or devices do not fit, heads or groups do not divide, page tables are none of this cache, or what is
    /// written overlaps something. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A length is outside 0 and the capacity, or the scale, or one of the cache's, is not a number that can be one. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The backend does not run here, or not on this memory.</exception>
    public static void Run(
        in TensorView query, in KvCacheViews cache, in TensorView lengths, in TensorView output, TensorView positionSums = default,
        double? scale = null, AuxBackend backend = AuxBackend.Auto, TensorView workspace = default, CudaStream? stream = null)
    {
        var work = WorkOf(query, cache, lengths, output, positionSums, scale);
        if (query.Device.Kind == AuxDeviceKind.Host)
            work.CheckLengths();
        Run(work, backend, query.Device, workspace, CudaStream.HandleOn(stream, query.Device, nameof(stream)));
        TensorArguments.KeepAlive(query.Owner, lengths.Owner, output.Owner, positionSums.Owner, workspace.Owner, stream);
        cache.KeepAlive();
    }

    /// <summary>The bytes of workspace that a call over a contiguous cache in device memory needs.</summary>
    /// <param name="shape">B, Hq, Hkv, d and Nmax.</param>
    /// <exception cref="ArgumentException">Sizes that CUDA kernels do not take.</exception>
    /// <exception cref="BackendUnavailableException">There is no CUDA here.</exception>
    public static unsafe long WorkspaceBytes(KvAttentionShape shape)
    {
        shape.Check();
        var work = Contiguous(shape, null, null, KvFormat.F32, null, KvFormat.F32, null, 1, null);
        return Math.Max(WorkspaceBytesOf(work), new IlgpuPlan(work).Bytes);
    }

    /// <summary>The bytes of workspace that a call over a cache in device memory needs; it needs none in host memory.</summary>
    /// <param name="query">As for the call, as all that follow.</param>
    /// <param name="cache">The cache.</param>
    /// <param name="lengths">Of sequences or of heads.</param>
    /// <param name="output">The output.</param>
    /// <param name="positionSums">Left out where the call leaves them out.</param>
    /// <exception cref="ArgumentException">As for the call.</exception>
    /// <exception cref="BackendUnavailableException">There is no CUDA here.</exception>
    public static long WorkspaceBytes(
        in TensorView query, in KvCacheViews cache, in TensorView lengths, in TensorView output, TensorView positionSums = default)
    {
        var work = WorkOf(query, cache, lengths, output, positionSums, scale: null);
        return query.Device.Kind == AuxDeviceKind.Host ? 0 : Math.Max(WorkspaceBytesOf(work), new IlgpuPlan(work).Bytes);
    }

    private static unsafe KvAttentionWork WorkOf(
        in TensorView query, in KvCacheViews cache, in TensorView lengths, in TensorView output, in TensorView positionSums, double? scale)
    {
        var device = query.Device;
        var (shape, store) = ShapeOf(query, cache);
        CheckScale(scale);
        TensorArguments.Require(query, nameof(query), [DType.Float32], query.Shape, device, nameof(query));
        TensorArguments.Require(output, nameof(output), [DType.Float32], query.Shape, device, nameof(output));
        var ofHeads = lengths.Shape.Length == 2;
        TensorArguments.Require(
            lengths, nameof(lengths), [DType.Int32], ofHeads ? [shape.Batch, shape.KvHeads] : [shape.Batch], device, nameof(lengths));
        var positions = positionSums.Shape.IsEmpty ? 0 : positionSums.Shape[^1];
        TensorArguments.RequireIfWanted(
            positionSums, nameof(positionSums), DType.Float32, [shape.Batch, shape.KvHeads, positions], device, nameof(positionSums));
        return new KvAttentionWork
        {
            Shape = shape,
            Cache = store,
            Queries = (float*)query.Address,
            Lengths = (int*)lengths.Address,
            LengthsAreOfHeads = ofHeads,
            Scale = Scale(scale, shape),
            Outputs = (float*)output.Address,
            PositionSums = (float*)positionSums.Address,
            SumPositions = (int)Math.Min(positions, int.MaxValue),
        };
    }

    /// <summary>The op's one entry below the checks.</summary>
    private static void Run(
        in KvAttentionWork work, AuxBackend backend, AuxDevice device, in TensorView workspace = default, nint stream = 0)
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
            case AuxBackend.Cuda:
                RunCuda(work, workspace, device, stream);
                break;
            case AuxBackend.Ilgpu when IlgpuShim.IsSupported:
                RunIlgpu(work, workspace, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(KvDecodeAttention), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }
}
