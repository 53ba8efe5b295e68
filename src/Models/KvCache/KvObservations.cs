namespace AuxCore.Models;

/// <summary>What rules of eviction have seen of a cache's queries: the latest of them, and how much attention each token got.</summary>
internal sealed class KvObservations
{
    private readonly KvLayout _layout;
    private readonly List<(int Position, float[] Row)>[][] _windows; // [layers][B], oldest first; rows are [Hq · d]
    private readonly float[]?[] _sums;                               // [layers], pinned [B, Hkv, Nmax]

    public KvObservations(KvLayout layout)
    {
        _layout = layout;
        _windows = [.. layout.Layers.Select(_ => Enumerable.Range(0, layout.Batch).Select(_ => new List<(int, float[])>()).ToArray())];
        _sums = new float[layout.Layers.Count][];
    }

    /// <summary>The latest queries of a sequence, oldest first.</summary>
    public IReadOnlyList<(int Position, float[] Row)> Window(int layer, int sequence) => _windows[layer][sequence];

    public void Add(int layer, int sequence, int position, float[] row, int window)
    {
        var rows = _windows[layer][sequence];
        rows.Add((position, row));
        if (rows.Count > window)
            rows.RemoveRange(0, rows.Count - window);
    }

    /// <summary>[B, Hkv, Nmax]; null where nobody asked for them.</summary>
    public float[]? Sums(int layer) => _sums[layer];

    public float[] SumsOf(int layer) => _sums[layer] ??=
        GC.AllocateArray<float>(checked(_layout.Batch * _layout.Layers[layer].KvHeads * _layout.Capacity), pinned: true);

    public KvObservations Copy()
    {
        var identity = Enumerable.Range(0, _layout.Batch).ToArray();
        return Reordered(identity);
    }

    public KvObservations Reordered(ReadOnlySpan<int> from)
    {
        var result = new KvObservations(_layout);
        for (var layer = 0; layer < _windows.Length; layer++)
        {
            var stride = _layout.Layers[layer].KvHeads * _layout.Capacity;
            for (var b = 0; b < from.Length; b++)
            {
                result._windows[layer][b].AddRange(_windows[layer][from[b]]);
                if (_sums[layer] is { } sums)
                    sums.AsSpan(from[b] * stride, stride).CopyTo(result.SumsOf(layer).AsSpan(b * stride));
            }
        }

        return result;
    }

    /// <summary>Forgets the queries of a sequence from a position on.</summary>
    public void Truncate(int layer, int sequence, int position) =>
        _windows[layer][sequence].RemoveAll(query => query.Position >= position);

    /// <summary>A head now holds these of its slots; those behind them have got no attention.</summary>
    public void Keep(int layer, int stream, ReadOnlySpan<int> slots)
    {
        if (_sums[layer] is null)
            return;
        var sums = _sums[layer].AsSpan(stream * _layout.Capacity, _layout.Capacity);
        for (var to = 0; to < slots.Length; to++)
            sums[to] = sums[slots[to]];
        sums[slots.Length..].Clear();
    }

    /// <summary>A head now holds so many tokens.</summary>
    public void Shrink(int layer, int stream, int length) =>
        _sums[layer]?.AsSpan(stream * _layout.Capacity + length, _layout.Capacity - length).Clear();
}
