using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A <see cref="KvCache"/> whose memory is one stretch a layer, for the whole capacity, from the beginning. A fork is a copy. Evicted tokens
/// make room for others, and give no memory back.
/// </summary>
public sealed class ContiguousKvCache : KvCache
{
    private readonly Tensor[] _keys, _values; // uint8 [B · Hkv, 1, Nmax, bytes of a row]

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
            return _keys.Concat(_values).Sum(tensor => tensor.numel());
        }
    }

    private protected override unsafe KvRun Locate(int layer, int stream, int slot)
    {
        var row = (long)stream * Layout.Capacity + slot;
        return new(
            (byte*)TorchNative.THSTensor_data(_keys[layer].Handle) + row * KeyRowBytes(layer),
            (byte*)TorchNative.THSTensor_data(_values[layer].Handle) + row * ValueRowBytes(layer), Layout.Capacity - slot);
    }

    private protected override void Reserve(int layer, ReadOnlySpan<int> rowsBySequence) => RequireCapacity(layer, rowsBySequence);

    private protected override void Own(int layer, ReadOnlySpan<int> streams)
    {
    }

    private protected override void Shrink(int layer, int stream, int length)
    {
    }

    private protected override void AttendTo(int layer, Tensor queries, int[] lengths, Tensor output, double? scale)
    {
        // Each head is a sequence of its own, because heads may hold unequal numbers of tokens.
        var (streams, depth) = (AllSlots[layer].Streams, Layout.Layers[layer].HeadDim);
        Tensor grouped = queries.view(streams, -1, depth), result = output.view(streams, -1, depth);
        KvDecodeAttention.Run(
            grouped.ToTensorView(), _keys[layer].ToTensorView(), Layout.Keys, _values[layer].ToTensorView(), Layout.Values, lengths,
            result.ToTensorView(), scale);
    }

    private protected override KvCache ForkWith(KvSlots[] slots) => new ContiguousKvCache(Layout, slots, Copies(_keys), Copies(_values));

    private protected override void ReorderMemory(ReadOnlySpan<int> from)
    {
        for (var layer = 0; layer < _keys.Length; layer++)
        {
            var heads = Layout.Layers[layer].KvHeads;
            var streams = new long[from.Length * heads];
            for (var i = 0; i < streams.Length; i++)
                streams[i] = (long)from[i / heads] * heads + i % heads;
            using var scope = torch.NewDisposeScope();
            var index = torch.tensor(streams);
            _keys[layer].copy_(_keys[layer].index_select(0, index));
            _values[layer].copy_(_values[layer].index_select(0, index));
        }
    }

    private protected override void DisposeMemory()
    {
        foreach (var tensor in _keys.Concat(_values))
            tensor.Dispose();
    }

    private Tensor[] Allocate(Func<int, long> rowBytes) =>
    [
        .. Layout.Layers.Select((layer, i) => torch
            .empty([(long)Layout.Batch * layer.KvHeads, 1, Layout.Capacity, rowBytes(i)], torch.uint8).DetachFromDisposeScope()),
    ];

    private static Tensor[] Copies(Tensor[] tensors) => [.. tensors.Select(tensor => tensor.clone().DetachFromDisposeScope())];
}
