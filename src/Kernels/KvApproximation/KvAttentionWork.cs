namespace AuxCore.Kernels;

/// <summary>One call of <see cref="KvDecodeAttention"/>, whose arguments were checked.</summary>
internal readonly unsafe struct KvAttentionWork(
    KvAttentionShape shape, float* query, byte* keys, KvFormat keyFormat, byte* values, KvFormat valueFormat, int* lengths, double scale,
    float* output)
{
    public KvAttentionShape Shape => shape;

    public KvFormat KeyFormat => keyFormat;

    public KvFormat ValueFormat => valueFormat;

    public double Scale => scale;

    /// <summary>How many positions of a sequence are filled.</summary>
    public int Length(int b) => lengths[b];

    /// <summary>[d] of a query head.</summary>
    public float* Query(int b, int head) => query + ((long)b * shape.QueryHeads + head) * shape.HeadDim;

    /// <summary>[d] of a query head's result.</summary>
    public float* Output(int b, int head) => output + ((long)b * shape.QueryHeads + head) * shape.HeadDim;

    /// <summary>A head's keys of all positions.</summary>
    public byte* Keys(int b, int kvHead) => keys + Head(b, kvHead) * KeyRowBytes;

    /// <summary>A head's values of all positions.</summary>
    public byte* Values(int b, int kvHead) => values + Head(b, kvHead) * ValueRowBytes;

    public long KeyRowBytes => KeyFormat.ByteCount(shape.HeadDim);

    public long ValueRowBytes => ValueFormat.ByteCount(shape.HeadDim);

    /// <summary>Refuses an output that shares memory with anything.</summary>
    public void RequireDisjoint() => TensorArguments.RequireDisjoint(
        NamedMemory.Read("query", query, shape.QueryElements * sizeof(float)),
        NamedMemory.Read("keys", keys, KeyFormat.ByteCount(shape.CacheElements)),
        NamedMemory.Read("values", values, ValueFormat.ByteCount(shape.CacheElements)),
        NamedMemory.Read("lengths", lengths, shape.Batch * (long)sizeof(int)),
        NamedMemory.Written("output", output, shape.QueryElements * sizeof(float)));

    // In positions.
    private long Head(int b, int kvHead) => ((long)b * shape.KvHeads + kvHead) * shape.Capacity;
}
