using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The operands of one call of <see cref="TokenScores"/>. Steps are in elements.</summary>
internal readonly unsafe struct TokenScoresWork
{
    public required DType DType { get; init; }

    public required void* Queries { get; init; }

    public required void* Keys { get; init; }

    /// <summary>Null where it is to be computed.</summary>
    public required float* LogSumExp { get; init; }

    /// <summary>Null for the mean.</summary>
    public required float* HeadWeights { get; init; }

    public required float* Scores { get; init; }

    /// <summary>How many keys each sequence has; null where all have the same number.</summary>
    public required int* Lengths { get; init; }

    public required int Batch { get; init; }

    public required int QueryHeads { get; init; }

    public required int KeyHeads { get; init; }

    public required int Rows { get; init; }

    public required int Tokens { get; init; }

    public required int Depth { get; init; }

    public required float Scale { get; init; }

    public required bool Causal { get; init; }

    public required (long Batch, long Head, long Row) QueryStep { get; init; }

    public required (long Batch, long Head, long Row) KeyStep { get; init; }

    /// <summary>Query heads that share a head of keys.</summary>
    public int Group => QueryHeads / KeyHeads;

    /// <summary>The element where a row of queries begins.</summary>
    public long QueryAt(int b, int head, int row) => b * QueryStep.Batch + head * QueryStep.Head + row * QueryStep.Row;

    /// <summary>The element where a key begins.</summary>
    public long KeyAt(int b, int head, int token) => b * KeyStep.Batch + head * KeyStep.Head + token * KeyStep.Row;

    /// <summary>How many keys a row sees.</summary>
    public int Seen(int row) => Causal ? Tokens - Rows + row + 1 : Tokens;

    public float Weight(int head) => HeadWeights == null ? (float)(1.0 / ((double)QueryHeads * Rows)) : HeadWeights[head];

    public float LogSumExpOf(int b, int head, int row) => LogSumExp[((long)b * QueryHeads + head) * Rows + row];

    /// <summary>The part of one sequence, as far as it is not padding.</summary>
    public TokenScoresWork Sequence(int b)
    {
        var size = DType.Size();
        return this with
        {
            Queries = (byte*)Queries + b * QueryStep.Batch * size,
            Keys = (byte*)Keys + b * KeyStep.Batch * size,
            LogSumExp = LogSumExp == null ? null : LogSumExp + (long)b * QueryHeads * Rows,
            Scores = Scores + (long)b * Tokens,
            Lengths = null,
            Batch = 1,
            Tokens = Lengths[b],
        };
    }

    public static TokenScoresWork Of(in ScoreTensors tensors, bool causal, double? scale)
    {
        var (queries, keys, device) = (tensors.Queries, tensors.Keys, tensors.Scores.Device);
        if (queries.Shape.Length != 4 || keys.Shape.Length != 4)
            throw Refused($"Queries: {queries}, Keys: {keys}; both are of rank 4, [batch, heads, rows, depth]");
        if (queries.DType is not (DType.Float32 or DType.BFloat16 or DType.Float16) || keys.DType != queries.DType)
            throw Refused($"Queries: {queries}, Keys: {keys}; both are float32, bfloat16 or float16");
        var (batch, heads, rows, depth) = (queries.Shape[0], queries.Shape[1], queries.Shape[2], queries.Shape[3]);
        var (keyHeads, tokens) = (keys.Shape[1], keys.Shape[2]);
        if (keys.Shape[0] != batch || keys.Shape[3] != depth)
            throw Refused($"Keys: {keys} does not match the batch and depth of Queries, {queries}");
        if (keyHeads == 0 || heads == 0 || heads % keyHeads != 0 || depth == 0)
            throw Refused($"Queries: {queries}, Keys: {keys}; the heads are no multiple of those of the keys, or there are none");
        if (causal && rows > tokens)
            throw Refused($"Queries: {rows} rows, but {tokens} keys; with a causal mask there are no more rows than keys");
        RequireHost(queries, "Queries", device);
        RequireHost(keys, "Keys", device);
        TensorArguments.Require(tensors.Scores, "Scores", [DType.Float32], [batch, tokens], device, nameof(tensors));
        TensorArguments.RequireIfWanted(
            tensors.LogSumExp, "LogSumExp", DType.Float32, [batch, heads, rows], device, nameof(tensors));
        TensorArguments.RequireIfWanted(tensors.HeadWeights, "HeadWeights", DType.Float32, [heads], device, nameof(tensors));
        TensorArguments.RequireIfWanted(tensors.Lengths, "Lengths", DType.Int32, [batch], AuxDevice.Host, nameof(tensors));
        if (scale is { } given && !double.IsFinite(given))
            throw new ArgumentOutOfRangeException(nameof(scale), given, "A scale is finite.");

        var work = new TokenScoresWork
        {
            DType = queries.DType,
            Queries = (void*)queries.Address,
            Keys = (void*)keys.Address,
            LogSumExp = (float*)tensors.LogSumExp.Address,
            HeadWeights = (float*)tensors.HeadWeights.Address,
            Scores = (float*)tensors.Scores.Address,
            Lengths = (int*)tensors.Lengths.Address,
            Batch = checked((int)batch),
            QueryHeads = checked((int)heads),
            KeyHeads = checked((int)keyHeads),
            Rows = checked((int)rows),
            Tokens = checked((int)tokens),
            Depth = checked((int)depth),
            Scale = (float)(scale ?? 1 / Math.Sqrt(depth)),
            Causal = causal,
            QueryStep = Steps(queries, "Queries"),
            KeyStep = Steps(keys, "Keys"),
        };
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("Queries", work.Queries, CompactItem.Extent(queries)),
            NamedMemory.Read("Keys", work.Keys, CompactItem.Extent(keys)),
            NamedMemory.Read("LogSumExp", work.LogSumExp, tensors.LogSumExp.ByteCount),
            NamedMemory.Read("HeadWeights", work.HeadWeights, tensors.HeadWeights.ByteCount),
            NamedMemory.Read("Lengths", work.Lengths, tensors.Lengths.ByteCount),
            NamedMemory.Written("Scores", work.Scores, tensors.Scores.ByteCount));
        work.CheckLengths();
        return work;
    }

    private void CheckLengths()
    {
        for (var b = 0; Lengths != null && b < Batch; b++)
        {
            if (Lengths[b] < (Causal ? Rows : 0) || Lengths[b] > Tokens)
            {
                throw Refused(
                    $"Lengths[{b}] is {Lengths[b]}; it is within 0 and {Tokens}"
                    + (Causal ? $", and with a causal mask no less than the {Rows} rows" : ""));
            }
        }
    }

    private static ArgumentException Refused(string message) => TensorArguments.Refused(message, "tensors");

    private static void RequireHost(in TensorView view, string name, AuxDevice device)
    {
        if (view.Device != device)
            throw Refused($"{name}: {view}, but the scores are on {device}");
        if (view.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, $"{name}: its memory was freed");
    }

    private static (long, long, long) Steps(in TensorView view, string name)
    {
        var strides = view.Strides();
        if (view.Shape[3] > 1 && strides[3] != 1 && view.ElementCount > 0)
            throw Refused($"{name}: {view}; the elements of a head must lie side by side");
        if (strides.Any(stride => stride < 0))
            throw Refused($"{name}: {view} has a negative stride");
        return (strides[0], strides[1], strides[2]);
    }
}
