using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>One call of <see cref="KvWindowScores"/> with queries and keys, whose arguments were checked.</summary>
internal readonly unsafe struct KvWindowProduct
{
    public float* Queries { get; private init; }

    public float* Keys { get; private init; }

    public float* AllScores { get; private init; }

    public int Heads { get; private init; }

    /// <summary>Rows of a head: those of G query heads, one after the other.</summary>
    public int Rows { get; private init; }

    public int Window { get; private init; }

    public int Positions { get; private init; }

    public int Depth { get; private init; }

    /// <summary>Elements from one key to the next.</summary>
    public long KeyStep { get; private init; }

    /// <summary>Elements from one head's keys to the next one's.</summary>
    public long HeadStep { get; private init; }

    public bool IsCausal { get; private init; }

    public double Scale { get; private init; }

    public float* Query(int head, int row) => Queries + ((long)head * Rows + row) * Depth;

    public float* Key(int head, int position) => Keys + head * HeadStep + position * KeyStep;

    public float* Scores(int head) => AllScores + (long)head * Positions;

    /// <summary>How many positions a row sees.</summary>
    public int Seen(int row) => IsCausal ? Positions - Window + row % Window + 1 : Positions;

    /// <summary>Takes tensors apart, or refuses them.</summary>
    public static KvWindowProduct Of(in TensorView queries, in TensorView keys, in TensorView scores, bool causal, double? scale)
    {
        var shape = queries.Shape;
        var device = queries.Device;
        if (shape.Length != 4 || shape[1] < 1 || shape[2] < 1 || shape[3] < 1 || shape[1] * shape[2] > int.MaxValue
            || shape[0] > int.MaxValue || shape[3] > int.MaxValue)
            throw new ArgumentException($"queries: {queries} is not of rank 4, [heads, G, W, d], with rows", nameof(queries));
        TensorArguments.Require(queries, nameof(queries), [DType.Float32], shape, device, nameof(queries));
        RequireKeys(keys, shape[0], shape[3], device);
        var positions = keys.Shape[1];
        TensorArguments.Require(scores, nameof(scores), [DType.Float32], [shape[0], positions], device, nameof(scores));
        if (causal && shape[2] > positions)
        {
            throw new ArgumentException(
                $"queries: {queries} has more queries than the {positions} positions of keys, and is causal", nameof(queries));
        }

        if (scale is { } factor && !double.IsFinite(factor))
            throw new ArgumentOutOfRangeException(nameof(scale), factor, "A scale is finite.");
        var strides = keys.Strides();
        var written = NamedMemory.Written(nameof(scores), (void*)scores.Address, scores.ByteCount);
        var extent = positions == 0 || shape[0] == 0 ? 0
            : ((shape[0] - 1) * strides[0] + (positions - 1) * strides[1] + shape[3]) * sizeof(float);
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(queries), (void*)queries.Address, queries.ByteCount),
            NamedMemory.Read(nameof(keys), (void*)keys.Address, extent), written);
        return new()
        {
            Queries = (float*)queries.Address,
            Keys = (float*)keys.Address,
            AllScores = (float*)scores.Address,
            Heads = (int)shape[0],
            Rows = (int)(shape[1] * shape[2]),
            Window = (int)shape[2],
            Positions = (int)positions,
            Depth = (int)shape[3],
            KeyStep = strides[1],
            HeadStep = strides[0],
            IsCausal = causal,
            Scale = scale ?? 1 / Math.Sqrt(shape[3]),
        };
    }

    private static void RequireKeys(in TensorView keys, long heads, long depth, AuxDevice device)
    {
        if (keys.DType != DType.Float32)
            throw new ArgumentException($"keys: {keys}, but {DType.Float32.Name()} is needed", nameof(keys));
        if (keys.Shape.Length != 3 || keys.Shape[0] != heads || keys.Shape[2] != depth || keys.Shape[1] > int.MaxValue)
            throw new ArgumentException($"keys: {keys} does not match shape [{heads}, N, {depth}]", nameof(keys));
        var strides = keys.Strides();
        if ((strides[2] != 1 && depth > 1) || strides[0] < 0 || strides[1] < 0)
            throw new ArgumentException($"keys: {keys}; the elements of a key must be dense", nameof(keys));
        if (keys.Device != device)
            throw new ArgumentException($"keys: {keys}, but the other tensors are on {device}", nameof(keys));
        if (keys.Owner is IDeviceMemory { IsDisposed: true } owner)
            throw new ObjectDisposedException(owner.GetType().Name, "keys: its memory was freed");
    }
}
