using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>One call of <see cref="KvEvict"/>, whose arguments were checked.</summary>
internal readonly unsafe struct KvEvictWork
{
    public required KvCacheWork Cache { get; init; }

    public required KvEvictOptions Options { get; init; }

    /// <summary>[B · Hkv, <see cref="ScorePositions"/>].</summary>
    public required float* Scores { get; init; }

    public required long ScorePositions { get; init; }

    /// <summary>[B · Hkv].</summary>
    public required int* Lengths { get; init; }

    /// <summary>[B · Hkv]: how many each head keeps; null where the options' budget says it for all.</summary>
    public required int* Counts { get; init; }

    /// <summary>[B · Hkv, <see cref="NumberPositions"/>]; null where there are none.</summary>
    public required int* Numbers { get; init; }

    public required long NumberPositions { get; init; }

    /// <summary>Heads of all sequences.</summary>
    public int Heads => Cache.Batch * Cache.KvHeads;

    public static KvEvictWork Of(
        in TensorView scores, in TensorView lengths, in KvCacheViews cache, in TensorView positions, in TensorView counts,
        KvEvictOptions options)
    {
        if (scores.Shape.Length != 3 || scores.Shape[1] is < 1 or > int.MaxValue)
            throw new ArgumentException($"scores: {scores} is not of rank 3, [B, Hkv, N]", nameof(scores));
        var (kvHeads, device) = ((int)scores.Shape[1], scores.Device);
        var work = KvCacheWork.Of(cache, nameof(cache), kvHeads, HeadDimOf(cache), device);
        if (cache.KeyFormat == KvFormat.Kivi4 || cache.ValueFormat == KvFormat.Kivi4)
            throw new ArgumentException($"cache: rows of {KvFormat.Kivi4} do not stand for themselves and cannot be moved", nameof(cache));
        TensorArguments.Require(scores, nameof(scores), [DType.Float32], [work.Batch, kvHeads, scores.Shape[2]], device, nameof(scores));
        TensorArguments.Require(lengths, nameof(lengths), [DType.Int32], [work.Batch, kvHeads], device, nameof(lengths));
        var numbers = positions.Shape.IsEmpty ? 0 : positions.Shape[^1];
        TensorArguments.RequireIfWanted(
            positions, nameof(positions), DType.Int32, [work.Batch, kvHeads, numbers], device, nameof(positions));
        TensorArguments.RequireIfWanted(counts, nameof(counts), DType.Int32, [work.Batch, kvHeads], device, nameof(counts));
        var evict = new KvEvictWork
        {
            Cache = work,
            Options = options,
            Scores = (float*)scores.Address,
            ScorePositions = scores.Shape[2],
            Lengths = (int*)lengths.Address,
            Counts = (int*)counts.Address,
            Numbers = (int*)positions.Address,
            NumberPositions = numbers,
        };
        work.RequireDisjoint(
            nameof(cache), isWritten: true,
            [
                NamedMemory.Read(nameof(scores), evict.Scores, scores.ByteCount),
                NamedMemory.Read(nameof(counts), evict.Counts, evict.Counts == null ? 0 : counts.ByteCount),
                NamedMemory.Written(nameof(lengths), evict.Lengths, lengths.ByteCount),
                NamedMemory.Written(nameof(positions), evict.Numbers, positions.ByteCount),
            ]);
        return evict;
    }

    /// <summary>Refuses lengths that there is no room for, or that a budget asks more of, and negative counts. Host memory only.</summary>
    public void CheckLengths()
    {
        for (var head = 0; head < Heads; head++)
        {
            var length = Lengths[head];
            long room = Math.Min(Cache.Capacity(head / Cache.KvHeads, head % Cache.KvHeads), ScorePositions);
            if (Numbers != null)
                room = Math.Min(room, NumberPositions);
            var name = $"lengths[{head / Cache.KvHeads}, {head % Cache.KvHeads}]";
            if (length < 0 || length > room)
                Refuse("lengths", length, $"{name} is not within 0 and {room}, the least of the capacity, scores and positions.");
            if (Counts != null && Counts[head] < 0)
                Refuse("counts", Counts[head], $"counts[{head / Cache.KvHeads}, {head % Cache.KvHeads}] is negative.");
            if (Options.Budget.Rule == BudgetRule.Count && Options.Budget.Tokens > length)
            {
                throw new ArgumentException(
                    $"options.Budget: {Options.Budget.Tokens} positions of each head, but {name} is {length}; "
                    + $"Budget.Ratio(1).Within(maximum: {Options.Budget.Tokens}) keeps at most so many", "options");
            }
        }
    }

    /// <summary>Where each head's positions begin, were all of them side by side, and the end.</summary>
    public int[] Bounds()
    {
        var bounds = new int[Heads + 1];
        for (var head = 0; head < Heads; head++)
            bounds[head + 1] = checked(bounds[head] + Lengths[head]);
        return bounds;
    }

    /// <summary>What a head adds to the budget that the heads of its sequence share; a count may be more than the head has.</summary>
    public int ShareOf(int head) =>
        Counts == null ? Options.Keep(Lengths[head]) : Math.Max(Counts[head], Options.Always(Lengths[head]));

    /// <summary>Whether a position of a head of a length is kept whatever its score.</summary>
    public bool IsAlways(int position, int length) => position < Options.Sinks || position >= length - Options.Recent;

    private static void Refuse(string parameter, int value, string message) =>
        throw new ArgumentOutOfRangeException(parameter, value, message);

    // d is known from the rows of either dtype.
    private static int HeadDimOf(in KvCacheViews cache)
    {
        var (keys, format) = (cache.Keys, cache.KeyFormat);
        if (keys.Shape.Length != 4)
            throw new ArgumentException($"cache.Keys: {keys} is not of rank 4", nameof(cache));
        var row = keys.Shape[3];
        var elements = keys.DType == format.OwnType() ? row : row / format.ByteCount(format.GroupSize()) * format.GroupSize();
        return elements is >= 1 and <= int.MaxValue
            ? (int)elements
            : throw new ArgumentException($"cache.Keys: {keys} has no rows of {format}", nameof(cache));
    }
}
