namespace AuxCore.Kernels;

/// <summary>One call of <see cref="KvDecodeAttention"/>, whose arguments were checked.</summary>
internal readonly unsafe struct KvAttentionWork
{
    /// <summary>B, Hq, Hkv and d. The capacity is that of a contiguous cache, and 1 of a paged one.</summary>
    public required KvAttentionShape Shape { get; init; }

    public required KvCacheWork Cache { get; init; }

    /// <summary>[B, Hq, d].</summary>
    public required float* Queries { get; init; }

    /// <summary>[B], or [B, Hkv].</summary>
    public required int* Lengths { get; init; }

    /// <summary>Whether each head has a length of its own.</summary>
    public bool LengthsAreOfHeads { get; init; }

    /// <summary>Whether lengths are in host memory, wherever the rest is.</summary>
    public bool LengthsAreOnHost { get; init; }

    public required double Scale { get; init; }

    /// <summary>[B, Hq, d].</summary>
    public required float* Outputs { get; init; }

    /// <summary>[B, Hkv, <see cref="SumPositions"/>]; null where sums are not wanted.</summary>
    public float* PositionSums { get; init; }

    public int SumPositions { get; init; }

    public KvFormat KeyFormat => Cache.Keys.Format;

    public KvFormat ValueFormat => Cache.Values.Format;

    /// <summary>How many positions of a head are filled.</summary>
    public int Length(int b, int kvHead) => LengthsAreOfHeads ? Lengths[(long)b * Shape.KvHeads + kvHead] : Lengths[b];

    /// <summary>[d] of a query head.</summary>
    public float* Query(int b, int head) => Queries + ((long)b * Shape.QueryHeads + head) * Shape.HeadDim;

    /// <summary>[d] of a query head's result.</summary>
    public float* Output(int b, int head) => Outputs + ((long)b * Shape.QueryHeads + head) * Shape.HeadDim;

    /// <summary>The sums of a head's positions.</summary>
    public float* Sums(int b, int kvHead) => PositionSums + ((long)b * Shape.KvHeads + kvHead) * SumPositions;

    /// <summary>Refuses lengths beyond what there is room for. Host memory only.</summary>
    public void CheckLengths()
    {
        for (var b = 0; b < Shape.Batch; b++)
        {
            for (var head = 0; head < Shape.KvHeads; head++)
            {
                var (length, capacity) = (Length(b, head), Cache.Capacity(b, head));
                if ((uint)length > (uint)capacity)
                    throw Refused("lengths", b, head, length, $"the capacity, {capacity}");
                if (PositionSums != null && length > SumPositions)
                    throw Refused("lengths", b, head, length, $"the positions of positionSums, {SumPositions}");
            }
        }
    }

    /// <summary>Refuses an output that shares memory with anything.</summary>
    public void RequireDisjoint()
    {
        var lengths = (long)Shape.Batch * (LengthsAreOfHeads ? Shape.KvHeads : 1);
        Cache.RequireDisjoint(
            "cache", isWritten: false,
            [
                NamedMemory.Read("query", Queries, Shape.QueryElements * sizeof(float)),
                NamedMemory.Read("lengths", Lengths, lengths * sizeof(int)),
                NamedMemory.Written("output", Outputs, Shape.QueryElements * sizeof(float)),
                NamedMemory.Written("positionSums", PositionSums, (long)Shape.Batch * Shape.KvHeads * SumPositions * sizeof(float)),
            ]);
    }

    private ArgumentOutOfRangeException Refused(string parameter, int b, int head, int length, string limit) =>
        new(parameter, length, $"{parameter}[{(LengthsAreOfHeads ? $"{b}, {head}" : b)}] is not within 0 and {limit}.");
}
