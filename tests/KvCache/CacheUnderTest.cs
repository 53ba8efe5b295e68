using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

/// <summary>A cache of either kind beside plain lists of what it should hold.</summary>
internal sealed class CacheUnderTest : IDisposable
{
    public const int HeadDim = 32, PageTokens = 4;

    private readonly KvPagePool? _pool;
    private readonly bool _ownsPool;
    private readonly Dictionary<(int Layer, int Sequence, int Head), List<(int Position, float[] Key, float[] Value)>> _held = [];

    public CacheUnderTest(bool paged, int batch = 2, int capacity = 40, KvFormat keys = KvFormat.F32, KvFormat values = KvFormat.F32)
        : this(new([new(2, HeadDim), new(3, HeadDim)], batch, capacity, keys, values), paged)
    {
    }

    public CacheUnderTest(KvLayout layout, bool paged)
    {
        _pool = paged ? new(2000, HeadDim, layout.Keys, layout.Values, PageTokens) : null;
        _ownsPool = true;
        Cache = paged ? new PagedKvCache(_pool!, layout) : new ContiguousKvCache(layout);
        for (var layer = 0; layer < layout.Layers.Count; layer++)
        {
            for (var b = 0; b < layout.Batch; b++)
            {
                for (var head = 0; head < layout.Layers[layer].KvHeads; head++)
                    _held[(layer, b, head)] = [];
            }
        }
    }

    private CacheUnderTest(CacheUnderTest source)
    {
        (_pool, Cache) = (source._pool, source.Cache.Fork());
        foreach (var (key, list) in source._held)
            _held[key] = [.. list];
    }

    public KvCache Cache { get; }

    public KvPagePool Pool => _pool!;

    public CacheUnderTest Fork() => new(this);

    /// <summary>Random tokens for all layers; of each sequence the first of the rows.</summary>
    public void Append(Random random, int[] rows)
    {
        using var scope = torch.NewDisposeScope();
        var (batch, n) = (Cache.Layout.Batch, rows.Max());
        int[] positions = [.. Enumerable.Range(0, batch * n).Select(i => Cache.NextPosition(i / n) + i % n)];
        for (var layer = 0; layer < Cache.Layout.Layers.Count; layer++)
        {
            var heads = Cache.Layout.Layers[layer].KvHeads;
            float[] keys = Random(batch * heads * n), values = Random(batch * heads * n);
            Cache.Append(layer, Of(keys), Of(values), positions, rows);
            for (var b = 0; b < batch; b++)
            {
                for (var i = 0; i < heads * rows[b]; i++)
                {
                    var (head, token) = Math.DivRem(i, rows[b]);
                    var at = ((b * heads + head) * n + token) * HeadDim;
                    _held[(layer, b, head)].Add((positions[b * n + token], keys[at..(at + HeadDim)], values[at..(at + HeadDim)]));
                }
            }

            Tensor Of(float[] elements) => torch.tensor(elements).view(batch, heads, n, HeadDim);
        }

        float[] Random(int count) => [.. Enumerable.Range(0, count * HeadDim).Select(_ => random.NextSingle() * 2 - 1)];
    }

    public void Rewind(int[] positions)
    {
        Cache.Rewind(positions);
        foreach (var ((_, b, _), list) in _held)
            list.RemoveAll(token => token.Position >= positions[b]);
    }

    public void Reorder(int[] from)
    {
        Cache.Reorder(from);
        var before = _held.ToDictionary(entry => entry.Key, entry => entry.Value.ToList());
        foreach (var key in before.Keys)
            _held[key] = [.. before[key with { Sequence = from[key.Sequence] }]];
    }

    /// <summary>Keeps what a rule says of layer, sequence, head and slot.</summary>
    public void Keep(int layer, Func<int, int, int, bool> keep)
    {
        var offsets = new List<int> { 0 };
        var slots = new List<int>();
        for (var b = 0; b < Cache.Layout.Batch; b++)
        {
            for (var head = 0; head < Cache.Layout.Layers[layer].KvHeads; head++)
            {
                var list = _held[(layer, b, head)];
                int[] kept = [.. Enumerable.Range(0, list.Count).Where(slot => keep(b, head, slot))];
                slots.AddRange(kept);
                offsets.Add(slots.Count);
                _held[(layer, b, head)] = [.. kept.Select(slot => list[slot])];
            }
        }

        Cache.Keep(layer, offsets.ToArray(), slots.ToArray());
    }

    /// <summary>Asserts that lengths, positions, keys, values and attention are what the lists say.</summary>
    public void Check(double tolerance)
    {
        using var scope = torch.NewDisposeScope();
        for (var layer = 0; layer < Cache.Layout.Layers.Count; layer++)
        {
            var heads = Cache.Layout.Layers[layer].KvHeads;
            var (keys, values, lengths) = Cache.Materialise(layer);
            var queries = torch.ones(Cache.Layout.Batch, heads * 2, HeadDim) / 4;
            var output = Cache.Attend(layer, queries, scale: 1);
            for (var stream = 0; stream < lengths.Length; stream++)
            {
                var (b, head) = Math.DivRem(stream, heads);
                var list = _held[(layer, b, head)];
                Assert.Equal(list.Count, lengths[stream]);
                Assert.Equal(list.Count, Cache.Length(layer, b, head));
                Assert.Equal(list.Select(token => token.Position), Cache.Positions(layer, b, head).ToArray());
                Near([.. list.SelectMany(token => token.Key)], keys[b, head].narrow(0, 0, list.Count));
                Near([.. list.SelectMany(token => token.Value)], values[b, head].narrow(0, 0, list.Count));
                Near(Attention(list), output[b, head * 2 + 1]);
            }
        }

        void Near(float[] wanted, Tensor got)
        {
            Assert.Equal(wanted.Length, got.numel());
            if (wanted.Length == 0)
                return;
            foreach (var (w, g) in wanted.Zip(got.contiguous().data<float>().ToArray()))
                Assert.InRange(g - w, -tolerance, tolerance);
        }
    }

    public void Dispose()
    {
        Cache.Dispose();
        if (_ownsPool)
            _pool?.Dispose();
    }

    private static float[] Attention(List<(int Position, float[] Key, float[] Value)> list)
    {
        var weights = list.Select(token => Math.Exp(token.Key.Sum(x => (double)x) / 4)).ToArray();
        return
        [
            .. Enumerable.Range(0, HeadDim).Select(c =>
                list.Count == 0 ? 0f : (float)(list.Zip(weights, (token, w) => w * token.Value[c]).Sum() / weights.Sum())),
        ];
    }
}
