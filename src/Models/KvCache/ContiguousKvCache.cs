using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A <see cref="KvCache"/> whose memory is one stretch a layer, for the whole capacity, from the beginning. A fork is a copy. Evicted
/// tokens make room for others and give no memory back, as those of a <see cref="PagedKvCache"/> do.
/// </summary>
public sealed class ContiguousKvCache : KvCache
{
    private readonly Tensor[] _keys, _values; // uint8 [B, Hkv, rows, bytes of a row]

    /// <summary>An empty cache.</summary>
    /// <param name="layout">What it holds.</param>
    /// <exception cref="ArgumentException">The layout's sizes or formats do not go together.</exception>
    public ContiguousKvCache(KvLayout layout) : base(layout)
    {
        _keys = Allocate(KeyRowBytes);
        _values = Allocate(ValueRowBytes);
    }

    private ContiguousKvCache(KvLayout layout, KvSlots[] slots, Tensor[] keys, Tensor[] values) : base(layout, slots) =>
        (_keys, _values) = (keys, values);

    /// <inheritdoc/>
    public override long BytesReserved
    {
        get
        {
            RequireLive();
            return _keys.Concat(_values).Sum(tensor => tensor.numel()) + ResidualBytes;
        }
    }

    // KIVI's keys come in whole blocks.
    private int Rows => Layout.Keys == KvFormat.Kivi4
        ? checked((Layout.Capacity + KiviGroup.Elements - 1) / KiviGroup.Elements * KiviGroup.Elements)
        : Layout.Capacity;

    private protected override unsafe KvRun Locate(int layer, int stream, int slot)
    {
        var row = (long)stream * Rows + slot;
        return new(
            (byte*)TorchNative.THSTensor_data(_keys[layer].Handle) + row * KeyRowBytes(layer),
            (byte*)TorchNative.THSTensor_data(_values[layer].Handle) + row * ValueRowBytes(layer), Rows - slot);
    }

    private protected override void Reserve(int layer, ReadOnlySpan<int> rowsBySequence) => RequireCapacity(layer, rowsBySequence);

    private protected override void Own(int layer, ReadOnlySpan<int> streams)
    {
    }

    private protected override void Shrink(int layer, int stream, int length)
    {
    }

    private protected override KvCacheViews Views(int layer) => new()
    {
        Keys = _keys[layer].ToTensorView(),
        KeyFormat = Layout.Keys,
        Values = _values[layer].ToTensorView(),
        ValueFormat = Layout.Values,
    };

    private protected override KvCache ForkWith(KvSlots[] slots) => new ContiguousKvCache(Layout, slots, Copies(_keys), Copies(_values));

    private protected override void ReorderMemory(ReadOnlySpan<int> from)
    {
        using var scope = torch.NewDisposeScope();
        var index = torch.tensor(from.ToArray(), torch.int64);
        foreach (var tensor in _keys.Concat(_values))
            tensor.copy_(tensor.index_select(0, index));
    }

    private protected override void DisposeMemory()
    {
        foreach (var tensor in _keys.Concat(_values))
            tensor.Dispose();
    }

    private Tensor[] Allocate(Func<int, long> rowBytes) =>
    [
        .. Layout.Layers.Select((layer, i) => torch
            .empty([Layout.Batch, layer.KvHeads, Rows, rowBytes(i)], torch.uint8).DetachFromDisposeScope()),
    ];

    private static Tensor[] Copies(Tensor[] tensors) => [.. tensors.Select(tensor => tensor.clone().DetachFromDisposeScope())];
}
