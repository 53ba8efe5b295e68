using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

/// <summary>Tokens, a cache that they go into, and what the formula says of them.</summary>
internal sealed class AppendedTokens : IDisposable
{
    public const int Window = 5;

    private readonly PinnedArrays _pinned = new();
    private readonly int _sequences, _queryHeads, _kvHeads, _headDim, _capacity;
    private readonly KvFormat _format;

    public AppendedTokens(
        int sequences, int tokens, int queryHeads, int kvHeads, int headDim, int capacity, KvFormat format, int seed = 1)
    {
        (_sequences, Tokens, _queryHeads, _kvHeads, _headDim) = (sequences, tokens, queryHeads, kvHeads, headDim);
        (_capacity, _format) = (capacity, format);
        var random = new Random(seed);
        (Query, Keys, Values) = (Normal(tokens * queryHeads), Normal(tokens * kvHeads), Normal(tokens * kvHeads));
        (QueryNorm, KeyNorm) = (Normal(1), Normal(1));
        Rotated = new float[Query.Length];
        Slots = [.. Enumerable.Range(0, tokens).Select(token => token % (tokens / sequences))];
        (KeyBytes, ValueBytes) = (new byte[CacheBytes], new byte[CacheBytes]);
        (KeyRing, ValueRing) = (new float[RingElements], new float[RingElements]);

        float[] Normal(int rows)
        {
            var elements = new float[rows * headDim];
            foreach (ref var element in elements.AsSpan())
                element = (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(random.NextDouble() * Math.Tau));
            return elements;
        }
    }

    public int Tokens { get; }

    public float[] Query { get; }

    public float[] Keys { get; }

    public float[] Values { get; }

    public float[] QueryNorm { get; }

    public float[] KeyNorm { get; }

    public float[] Rotated { get; }

    public int[] Slots { get; }

    public byte[] KeyBytes { get; private set; }

    public byte[] ValueBytes { get; private set; }

    public float[] KeyRing { get; private set; }

    public float[] ValueRing { get; private set; }

    private int CacheBytes => (int)_format.ByteCount((long)_sequences * _kvHeads * _capacity * _headDim);

    private int RingElements => _format == KvFormat.Kivi4 ? _sequences * _kvHeads * (Window + 32) * _headDim : 0;

    public KvCacheViews Cache
    {
        get
        {
            long[] shape = [_sequences, _kvHeads, _capacity, _format.ByteCount(_headDim)];
            var scale = _format == KvFormat.Fp8E4M3 ? _pinned.View([0.05f], 1) : default;
            return new()
            {
                Keys = _pinned.View(KeyBytes, shape),
                Values = _pinned.View(ValueBytes, shape),
                KeyFormat = _format,
                ValueFormat = _format,
                KeyScales = scale,
                ValueScales = scale,
                KeyResidual = RingElements == 0 ? default : _pinned.View(KeyRing, _sequences, _kvHeads, Window + 32, _headDim),
                ValueResidual = RingElements == 0 ? default : _pinned.View(ValueRing, _sequences, _kvHeads, Window + 32, _headDim),
            };
        }
    }

    /// <summary>Some of the tokens, which lie one after the other.</summary>
    public KvAppendTensors Views(int from, int count, bool withNorm, int sequence = -1) => new()
    {
        Query = _pinned.View(Query, DType.Float32, from * _queryHeads * _headDim, [count, _queryHeads, _headDim]),
        RotatedQuery = _pinned.View(Rotated, DType.Float32, from * _queryHeads * _headDim, [count, _queryHeads, _headDim]),
        Keys = _pinned.View(Keys, DType.Float32, from * _kvHeads * _headDim, [count, _kvHeads, _headDim]),
        Values = _pinned.View(Values, DType.Float32, from * _kvHeads * _headDim, [count, _kvHeads, _headDim]),
        Slots = _pinned.View(Slots, DType.Int32, from, [count]),
        Sequences = sequence < 0 ? default : _pinned.View([.. Enumerable.Repeat(sequence, count)], count),
        QueryNorm = withNorm ? _pinned.View(QueryNorm, _headDim) : default,
        KeyNorm = withNorm ? _pinned.View(KeyNorm, _headDim) : default,
    };

    public void Append(RotaryOptions? rotary, bool withNorm, AuxBackend backend) =>
        KvAppend.Run(Views(0, Tokens, withNorm), Cache, rotary, 1e-5, backend);

    public void AppendOneByOne(RotaryOptions? rotary, bool withNorm, AuxBackend backend)
    {
        for (var token = 0; token < Tokens; token++)
            KvAppend.Run(Views(token, 1, withNorm, token / (Tokens / _sequences)), Cache, rotary, 1e-5, backend);
    }

    public void Forget()
    {
        (KeyBytes, ValueBytes) = (new byte[CacheBytes], new byte[CacheBytes]);
        (KeyRing, ValueRing) = (new float[RingElements], new float[RingElements]);
        Rotated.AsSpan().Clear();
    }

    /// <summary>A head's row after norm and rotation, in double.</summary>
    public static double[] Expect(ReadOnlySpan<float> x, float[]? norm, double epsilon, int position, RotaryOptions? rotary)
    {
        var row = new double[x.Length];
        var squares = 0.0;
        foreach (var value in x)
            squares += (double)value * value;
        for (var i = 0; i < row.Length; i++)
            row[i] = norm is null ? x[i] : x[i] / Math.Sqrt(squares / x.Length + epsilon) * norm[i];
        var rotated = rotary is null ? 0 : rotary.RotatedDepth == 0 ? x.Length : rotary.RotatedDepth;
        for (var pair = 0; pair < rotated / 2; pair++)
        {
            var angle = position * Math.Pow(rotary!.Base, -2.0 * pair / rotated);
            var (i, k) = rotary.Layout == RotaryLayout.Halves ? (pair, pair + rotated / 2) : (2 * pair, 2 * pair + 1);
            (row[i], row[k]) = (row[i] * Math.Cos(angle) - row[k] * Math.Sin(angle), row[i] * Math.Sin(angle) + row[k] * Math.Cos(angle));
        }

        return row;
    }

    /// <summary>The bytes of one head's row in the cache.</summary>
    public ReadOnlySpan<byte> Row(byte[] cache, int sequence, int kvHead, int slot)
    {
        var bytes = (int)_format.ByteCount(_headDim);
        return cache.AsSpan(((sequence * _kvHeads + kvHead) * _capacity + slot) * bytes, bytes);
    }

    public void Dispose() => _pinned.Dispose();
}
