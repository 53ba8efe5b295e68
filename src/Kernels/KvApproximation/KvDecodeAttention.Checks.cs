using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
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

        CheckScale(scale);
    }

    private static void CheckScale(double? scale)
    {
        if (scale is { } s && !double.IsFinite(s))
            throw new ArgumentOutOfRangeException(nameof(scale), s, "A scale is finite.");
    }

    private static void RequireFormat(string name, KvFormat format, KvAttentionShape shape)
    {
        var group = format.GroupSize();
        if (format is KvFormat.Fp8E4M3 or KvFormat.Kivi4)
            throw new ArgumentException($"{name}: {format} takes more than keys and values; pass KvCacheViews", name);
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

    /// <summary>A call over a contiguous cache whose arguments were checked.</summary>
    private static unsafe KvAttentionWork Contiguous(
        KvAttentionShape shape, float* query, byte* keys, KvFormat keyFormat, byte* values, KvFormat valueFormat, int* lengths,
        double? scale, float* output)
    {
        return new()
        {
            Shape = shape,
            Cache = new()
            {
                Keys = Plane(keys, keyFormat),
                Values = Plane(values, valueFormat),
                Batch = shape.Batch,
                Names = (nameof(keys), nameof(values)),
            },
            Queries = query,
            Lengths = lengths,
            LengthsAreOnHost = true,
            Scale = Scale(scale, shape),
            Outputs = output,
        };

        KvPlane Plane(byte* first, KvFormat format)
        {
            var row = format.ByteCount(shape.HeadDim);
            return new()
            {
                Format = format,
                First = first,
                OuterStep = shape.KvHeads * shape.Capacity * row,
                HeadStep = shape.Capacity * row,
                RowBytes = row,
                OuterCount = shape.Batch,
                KvHeads = shape.KvHeads,
                HeadDim = shape.HeadDim,
                Positions = shape.Capacity,
            };
        }
    }

    // Where a page holds one head, the number of page tables says how many heads there are.
    private static (KvAttentionShape Shape, KvCacheWork Cache) ShapeOf(in TensorView query, in KvCacheViews cache)
    {
        if (query.Shape.Length != 3 || query.ElementCount is < 1 or > int.MaxValue)
            throw new ArgumentException($"query: {query} is not of rank 3, [B, Hq, d], with elements", nameof(query));
        if (cache.Keys.Shape.Length != 4)
            throw new ArgumentException($"cache.Keys: {cache.Keys} is not of rank 4", nameof(cache));
        var kvHeads = cache.Keys.Shape[1];
        if (cache.IsPaged && kvHeads == 1)
            kvHeads = Math.Max(1, (cache.PageOffsets.ElementCount - 1) / query.Shape[0]);
        if (kvHeads is < 1 or > int.MaxValue)
            throw new ArgumentException($"cache.Keys: {cache.Keys} has no heads", nameof(cache));
        var work = KvCacheWork.Of(cache, nameof(cache), (int)kvHeads, (int)query.Shape[2], query.Device);
        if (work.Batch != query.Shape[0])
            throw new ArgumentException($"query: {query} has {query.Shape[0]} sequences, but the cache has {work.Batch}", nameof(query));
        var shape = new KvAttentionShape(
            work.Batch, (int)query.Shape[1], (int)kvHeads, (int)query.Shape[2], work.IsPaged ? 1 : work.Keys.Positions);
        shape.Check();
        return (shape, work);
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
        var own = format.OwnType();
        var row = view.DType == own ? shape.HeadDim : format.ByteCount(shape.HeadDim);
        TensorArguments.Require(
            view, name, own is { } dtype ? [dtype, DType.UInt8] : [DType.UInt8], [shape.Batch, shape.KvHeads, shape.Capacity, row],
            device, name);
    }
}
