using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The latest tokens of a cache in <see cref="KvFormat.Kivi4"/>, in float32, of all layers: for each head a ring of W + 32 rows, in which
/// a token is overwritten by the one that is W + 32 slots later. What leaves the latest W is quantised from there.
/// </summary>
/// <remarks>
/// A head that is shortened needs, in the ring, whatever is not quantised at its new length. It is there unless tokens that the head had,
/// and has no more, have overwritten it; so the ring knows how long each head has been.
/// </remarks>
internal sealed class KvResiduals : IDisposable
{
    private readonly KvLayout _layout;
    private readonly Tensor?[] _keys, _values; // [layers]: float32 [B, Hkv, W + 32, d]; null in other formats
    private readonly int[][] _reached;         // [layers][B · Hkv]: the greatest length since the head was last empty

    private KvResiduals(KvLayout layout, Tensor?[] keys, Tensor?[] values, int[][] reached) =>
        (_layout, _keys, _values, _reached) = (layout, keys, values, reached);

    /// <summary>Bytes of the rings.</summary>
    public long Bytes => _keys.Concat(_values).Sum(ring => ring?.numel() ?? 0) * sizeof(float);

    /// <summary>Those of an empty cache; null where its formats need none.</summary>
    public static KvResiduals? Of(KvLayout layout)
    {
        if (layout.Keys != KvFormat.Kivi4 && layout.Values != KvFormat.Kivi4)
            return null;
        int[][] reached = [.. layout.Layers.Select(layer => new int[layout.Batch * layer.KvHeads])];
        return new(layout, Rings(layout.Keys), Rings(layout.Values), reached);

        Tensor?[] Rings(KvFormat format) =>
        [
            .. layout.Layers.Select(layer => format != KvFormat.Kivi4 ? null : torch
                .empty([layout.Batch, layer.KvHeads, layout.Ring, layer.HeadDim], torch.float32).DetachFromDisposeScope()),
        ];
    }

    /// <summary>A layer with its rings.</summary>
    public KvCacheViews With(in KvCacheViews views, int layer) => views with
    {
        KeyResidual = _keys[layer]?.ToTensorView() ?? default,
        ValueResidual = _values[layer]?.ToTensorView() ?? default,
    };

    /// <summary>Whether a head can be shortened to so many tokens.</summary>
    public bool Remembers(int layer, int stream, int length)
    {
        var oldest = _reached[layer][stream] - _layout.Ring;
        return IsThere(_layout.Keys, _layout.StoredKeys(length)) && IsThere(_layout.Values, _layout.StoredValues(length));

        bool IsThere(KvFormat format, int first) => format != KvFormat.Kivi4 || first >= length || first >= oldest;
    }

    /// <summary>A head now has so many tokens.</summary>
    public void SetLength(int layer, int stream, int length) =>
        _reached[layer][stream] = length == 0 ? 0 : Math.Max(_reached[layer][stream], length);

    public KvResiduals Copy() => new(
        _layout, [.. _keys.Select(Clone)], [.. _values.Select(Clone)], [.. _reached.Select(lengths => (int[])lengths.Clone())]);

    /// <summary>Sequence b becomes what sequence from[b] was.</summary>
    public void Reorder(ReadOnlySpan<int> from)
    {
        using var scope = torch.NewDisposeScope();
        int[] sequences = [.. from];
        var index = torch.tensor(sequences, torch.int64);
        foreach (var ring in _keys.Concat(_values))
            ring?.copy_(ring.index_select(0, index));
        for (var layer = 0; layer < _reached.Length; layer++)
        {
            var heads = _layout.Layers[layer].KvHeads;
            _reached[layer] = [.. sequences.SelectMany(b => _reached[layer].Skip(b * heads).Take(heads).ToArray())];
        }
    }

    public void Dispose()
    {
        foreach (var ring in _keys.Concat(_values))
            ring?.Dispose();
    }

    private static Tensor? Clone(Tensor? ring) => ring?.clone().DetachFromDisposeScope();
}

/// <summary>What a pass that fails takes a cache back to.</summary>
/// <param name="positions">[B]: the positions that come next.</param>
/// <param name="residuals">The rings, where the pass may overwrite more of them than they can be rewound by.</param>
internal sealed class KvCacheMark(int[] positions, KvResiduals? residuals) : IDisposable
{
    public int[] Positions => positions;

    /// <summary>Gives the rings to a cache.</summary>
    public KvResiduals? TakeResiduals()
    {
        var taken = residuals;
        residuals = null;
        return taken;
    }

    public void Dispose() => residuals?.Dispose();
}
