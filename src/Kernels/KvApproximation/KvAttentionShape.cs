namespace AuxCore.Kernels;

/// <summary>The sizes of grouped-query attention over a KV cache. Query head h reads the keys and values of head h / G.</summary>
/// <param name="Batch">B, how many sequences.</param>
/// <param name="QueryHeads">Hq, a multiple of Hkv.</param>
/// <param name="KvHeads">Hkv.</param>
/// <param name="HeadDim">d, elements of a head.</param>
/// <param name="Capacity">Nmax, for how many positions the cache has room.</param>
public readonly record struct KvAttentionShape(int Batch, int QueryHeads, int KvHeads, int HeadDim, int Capacity)
{
    /// <summary>G, how many query heads share keys and values.</summary>
    public int HeadsPerGroup => QueryHeads / KvHeads;

    /// <summary>Elements of the query, and of the output.</summary>
    internal long QueryElements => checked((long)Batch * QueryHeads * HeadDim);

    /// <summary>Elements of the keys, and of the values.</summary>
    internal long CacheElements => checked((long)Batch * KvHeads * Capacity * HeadDim);

    /// <summary>Refuses sizes below 1, and heads that do not divide.</summary>
    internal void Check()
    {
        foreach (var (name, size) in ((string, int)[])
            [(nameof(Batch), Batch), (nameof(QueryHeads), QueryHeads), (nameof(KvHeads), KvHeads), (nameof(HeadDim), HeadDim),
                (nameof(Capacity), Capacity)])
        {
            if (size < 1)
                throw new ArgumentOutOfRangeException("shape", size, $"shape.{name} must be at least 1.");
        }

        if (QueryHeads % KvHeads != 0)
        {
            throw new ArgumentException(
                $"shape: {QueryHeads} query heads are not a multiple of {KvHeads} heads of keys and values", "shape");
        }
    }
}
