using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests;

/// <summary>
/// A cache of one layer beside lists of its tokens. It must hold, bit by bit, what a new contiguous cache holds that is given them at once.
/// </summary>
internal sealed class KiviUnderTest : IDisposable
{
    public const int Heads = 2, HeadDim = 32, Capacity = 200, PageTokens = 32;

    private readonly List<(float[] Keys, float[] Values)>[] _tokens; // of each sequence; [Hkv · d]
    private readonly int[] _reached;                                 // of each sequence: the most since it was empty
    private readonly bool _ownsPool;

    public KiviUnderTest(bool paged, KvFormat keys, KvFormat values, int window)
    {
        var layout = Layout(keys, values, window);
        Pool = paged ? new(200, HeadDim, keys, values, PageTokens) : null;
        Cache = Pool is null ? new ContiguousKvCache(layout) : new PagedKvCache(Pool, layout);
        (_tokens, _reached, _ownsPool) = ([[], []], [0, 0], true);
    }

    private KiviUnderTest(KiviUnderTest source) => (Pool, Cache, _tokens, _reached) =
        (source.Pool, source.Cache.Fork(), [[.. source._tokens[0]], [.. source._tokens[1]]], [.. source._reached]);

    public KvCache Cache { get; }

    public KvPagePool? Pool { get; }

    public static KvLayout Layout(KvFormat keys, KvFormat values, int window) =>
        new([new(Heads, HeadDim)], 2, Capacity, keys, values) { ResidualLength = window };

    /// <summary>From 0 on, of both sequences.</summary>
    public static int[] Positions(int n) => [.. Enumerable.Range(0, 2 * n).Select(i => i % n)];

    public int Length(int b) => _tokens[b].Count;

    public KiviUnderTest Fork() => new(this);

    public void Append(Random random, int[] rows)
    {
        using var scope = torch.NewDisposeScope();
        var (n, before) = (rows.Max(), (int[])[Length(0), Length(1)]);
        for (var i = 0; i < 2 * n; i++)
        {
            var token = (Random(), Random());
            if (i % n < rows[i / n])
                _tokens[i / n].Add(token);
        }

        for (var b = 0; b < 2; b++)
            _reached[b] = Math.Max(_reached[b], Length(b));
        var (keys, values) = Tensors(before, rows);
        Cache.Append(0, keys, values, [.. Enumerable.Range(0, 2 * n).Select(i => before[i / n] + i % n)], rows);

        float[] Random() => [.. Enumerable.Range(0, Heads * HeadDim).Select(_ => random.NextSingle() * 2 - 1)];
    }

    /// <summary>Whether the cache could; that it did so exactly where it should is asserted.</summary>
    public bool Rewind(int[] lengths)
    {
        var layout = Cache.Layout;
        var can = Enumerable.Range(0, 2).All(b =>
        {
            // What is not quantised is among the last W + 32 that the sequence had.
            var left = Math.Max(0, lengths[b] - Math.Min(layout.ResidualLength, Capacity));
            var oldest = _reached[b] - Math.Min(layout.ResidualLength, Capacity) - 32;
            return (layout.Keys != KvFormat.Kivi4 || left / 32 * 32 >= Math.Min(oldest, lengths[b]))
                && (layout.Values != KvFormat.Kivi4 || left >= Math.Min(oldest, lengths[b]));
        });
        if (!can)
        {
            Assert.Throws<ArgumentOutOfRangeException>(() => Cache.Rewind(lengths));
            return false;
        }

        Cache.Rewind(lengths);
        for (var b = 0; b < 2; b++)
        {
            _tokens[b].RemoveRange(lengths[b], Length(b) - lengths[b]);
            _reached[b] = lengths[b] == 0 ? 0 : _reached[b];
        }

        return true;
    }

    public void Reorder(int[] from)
    {
        Cache.Reorder(from);
        (_tokens[0], _tokens[1]) = ([.. _tokens[from[0]]], [.. _tokens[from[1]]]);
        (_reached[0], _reached[1]) = (_reached[from[0]], _reached[from[1]]);
    }

    /// <summary>Asserts that lengths, keys, values and attention are those of a new cache.</summary>
    public void Check()
    {
        using var scope = torch.NewDisposeScope();
        int[] lengths = [Length(0), Length(1)];
        Assert.Equal(lengths, new[] { Cache.Length(0, 0), Cache.Length(0, 1) });
        if (lengths.Max() == 0)
            return;
        using var wanted = new ContiguousKvCache(Cache.Layout);
        var (keys, values) = Tensors([0, 0], lengths);
        wanted.Append(0, keys, values, Positions(lengths.Max()), lengths);
        var (got, right) = (Cache.Materialise(0), wanted.Materialise(0));
        Assert.Equal(right.Lengths, got.Lengths);
        Assert.Equal(0, TinyDecoder.Distance(right.Keys, got.Keys));
        Assert.Equal(0, TinyDecoder.Distance(right.Values, got.Values));
        var query = torch.linspace(-1, 1, 2 * 4 * HeadDim).view(2, 4, HeadDim);
        Assert.Equal(0, TinyDecoder.Distance(wanted.Attend(0, query), Cache.Attend(0, query)));
    }

    public void Dispose()
    {
        Cache.Dispose();
        if (_ownsPool)
            Pool?.Dispose();
    }

    /// <summary>[2, Hkv, the most, d] of some tokens of each sequence; zeros behind.</summary>
    private (Tensor Keys, Tensor Values) Tensors(int[] from, int[] counts)
    {
        var n = counts.Max();
        var (keys, values) = (new float[2 * Heads * n * HeadDim], new float[2 * Heads * n * HeadDim]);
        for (var b = 0; b < 2; b++)
        {
            for (var i = 0; i < counts[b] * Heads; i++)
            {
                var (t, head) = Math.DivRem(i, Heads);
                var at = ((b * Heads + head) * n + t) * HeadDim;
                var token = _tokens[b][from[b] + t];
                token.Keys.AsSpan(head * HeadDim, HeadDim).CopyTo(keys.AsSpan(at));
                token.Values.AsSpan(head * HeadDim, HeadDim).CopyTo(values.AsSpan(at));
            }
        }

        long[] shape = [2, Heads, n, HeadDim];
        return (torch.tensor(keys).view(shape), torch.tensor(values).view(shape));
    }
}
