using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// The keys and values that a decoder has computed, layer by layer, in the formats in which they are attended to. Each head of each
/// sequence keeps its own number of tokens, so layers and heads may be pruned to unequal lengths, and memory follows.
/// </summary>
/// <remarks>
/// <para>A token is stored with its position, which is why a cache still knows, after eviction, what to rewind to and where a sequence goes
/// on. Positions of a sequence ascend. Nothing is evicted unless somebody asks: a token for which there is no room is refused.</para>
/// <para>The memory does not belong to any dispose scope; it ends with the cache. A cache is one thread's at a time.</para>
/// </remarks>
public abstract partial class KvCache : IDisposable
{
    private readonly KvSlots[] _slots;
    private readonly float[] _scales; // of keys, of values

    private protected KvCache(KvLayout layout, KvSlots[]? slots = null)
    {
        ArgumentNullException.ThrowIfNull(layout);
        layout.Check();
        Layout = layout;
        _scales = layout.Keys == KvFormat.Fp8E4M3 || layout.Values == KvFormat.Fp8E4M3 ? Pinned([layout.KeyScale, layout.ValueScale]) : [];
        _slots = slots ?? [.. layout.Layers.Select(layer => new KvSlots(layout.Batch, layer.KvHeads))];
    }

    /// <summary>What the cache holds.</summary>
    public KvLayout Layout { get; }

    /// <summary>Bytes of the tokens that are stored, with their positions.</summary>
    public long BytesUsed
    {
        get
        {
            RequireLive();
            var bytes = 0L;
            for (var layer = 0; layer < _slots.Length; layer++)
                bytes += _slots[layer].Bytes + TokenBytes(layer) * _slots[layer].Lengths().Sum(length => (long)length);
            return bytes;
        }
    }

    /// <summary>Bytes that are held for keys and values, filled or not.</summary>
    public abstract long BytesReserved { get; }

    /// <summary>Whether the cache was disposed.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>How many tokens a layer holds of a sequence: those of the head that holds most.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer or sequence.</exception>
    public int Length(int layer, int sequence)
    {
        var heads = Slots(layer, sequence);
        return Enumerable.Range(sequence * heads, heads).Max(_slots[layer].Length);
    }

    /// <summary>How many tokens a head holds of a sequence.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, sequence or head.</exception>
    public int Length(int layer, int sequence, int head) => _slots[layer].Length(Stream(layer, sequence, head));

    /// <summary>Which positions a head holds, ascending: one a slot. Valid until the cache changes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, sequence or head.</exception>
    public ReadOnlySpan<int> Positions(int layer, int sequence, int head) => _slots[layer].Positions(Stream(layer, sequence, head));

    /// <summary>One past the greatest position of a sequence that any layer was given: that of the token that comes next.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such sequence.</exception>
    public int NextPosition(int sequence)
    {
        Slots(0, sequence);
        return _slots.Max(slots => slots.Next(sequence));
    }

    /// <summary>Forgets, in all layers and sequences, the tokens from a position on. What was evicted before does not come back.</summary>
    /// <param name="position">Of the first token to forget.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is negative.</exception>
    public void Rewind(int position)
    {
        var positions = new int[Layout.Batch];
        Array.Fill(positions, position);
        Rewind(positions);
    }

    /// <summary>
    /// Forgets, in all layers, the tokens of each sequence from a position on. What was evicted before does not come back.
    /// </summary>
    /// <param name="positions">[B].</param>
    /// <exception cref="ArgumentException">Not one number a sequence.</exception>
    /// <exception cref="ArgumentOutOfRangeException">One is negative.</exception>
    public void Rewind(ReadOnlySpan<int> positions)
    {
        RequireLive();
        RequireOneEach(positions, nameof(positions));
        foreach (var position in positions)
            ArgumentOutOfRangeException.ThrowIfNegative(position, nameof(positions));
        for (var layer = 0; layer < _slots.Length; layer++)
        {
            var heads = Layout.Layers[layer].KvHeads;
            for (var stream = 0; stream < _slots[layer].Streams; stream++)
            {
                var length = _slots[layer].CountBelow(stream, positions[stream / heads]);
                Shrink(layer, stream, length);
                Observations?.Shrink(layer, stream, length);
            }

            for (var b = 0; b < positions.Length; b++)
            {
                _slots[layer].Truncate(b, positions[b]);
                Observations?.Truncate(layer, b, positions[b]);
            }
        }
    }

    /// <summary>A cache that goes its own way from here; both are disposed for themselves.</summary>
    public KvCache Fork()
    {
        RequireLive();
        var fork = ForkWith([.. _slots.Select(slots => slots.Copy())]);
        fork.Observations = Observations?.Copy();
        return fork;
    }

    /// <summary>Sequence b becomes what sequence <c>from[b]</c> was, as beam search asks for.</summary>
    /// <param name="from">[B]: within 0 and B − 1, in any order, also several times.</param>
    /// <exception cref="ArgumentException">Not one number a sequence.</exception>
    /// <exception cref="ArgumentOutOfRangeException">One is no sequence.</exception>
    public void Reorder(ReadOnlySpan<int> from)
    {
        RequireLive();
        RequireOneEach(from, nameof(from));
        foreach (var sequence in from)
        {
            if ((uint)sequence >= (uint)Layout.Batch)
                throw new ArgumentOutOfRangeException(nameof(from), sequence, $"It is not within 0 and {Layout.Batch - 1}.");
        }

        ReorderMemory(from);
        for (var layer = 0; layer < _slots.Length; layer++)
            _slots[layer] = _slots[layer].Reordered(from);
        Observations = Observations?.Reordered(from);
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose()
    {
        if (IsDisposed)
            return;
        IsDisposed = true;
        DisposeMemory();
        GC.SuppressFinalize(this);
    }

    /// <summary>What rules of eviction have seen; null where there is none.</summary>
    internal KvObservations? Observations { get; set; }

    /// <summary>Whether all heads of a sequence hold the same tokens in a layer.</summary>
    internal bool IsUniform(int layer) => _slots[layer].IsUniform;

    /// <summary>Whether a layer holds nothing.</summary>
    internal bool IsEmpty(int layer) => _slots[layer].Lengths().All(length => length == 0);

    /// <summary>
    /// The positions that come next, of all sequences: what <see cref="Rewind(ReadOnlySpan{int})"/> takes to come back here.
    /// </summary>
    internal int[] NextPositions() => [.. Enumerable.Range(0, Layout.Batch).Select(NextPosition)];

    private protected IReadOnlyList<KvSlots> AllSlots => _slots;

    private protected long KeyRowBytes(int layer) => Layout.Keys.ByteCount(Layout.Layers[layer].HeadDim);

    private protected long ValueRowBytes(int layer) => Layout.Values.ByteCount(Layout.Layers[layer].HeadDim);

    /// <summary>Bytes of one token of one head.</summary>
    private protected long TokenBytes(int layer) => KeyRowBytes(layer) + ValueRowBytes(layer);

    /// <summary>Where a head's rows are from a slot on, and how many lie side by side; those before its length or reserved.</summary>
    private protected abstract KvRun Locate(int layer, int stream, int slot);

    /// <summary>
    /// Makes sure that some rows behind those of each head of each sequence can be written, or throws and changes nothing.
    /// </summary>
    /// <exception cref="KvCapacityException">There is no room.</exception>
    private protected abstract void Reserve(int layer, ReadOnlySpan<int> rowsBySequence);

    /// <summary>Makes sure that rows of a head can be overwritten: that no other cache shares them.</summary>
    private protected abstract void Own(int layer, ReadOnlySpan<int> streams);

    /// <summary>A head shall hold no more than so many rows; what was held for the others may be given back.</summary>
    private protected abstract void Shrink(int layer, int stream, int length);

    /// <summary>The layer as ops see it, without scales.</summary>
    private protected abstract KvCacheViews Views(int layer);

    private protected abstract KvCache ForkWith(KvSlots[] slots);

    private protected abstract void ReorderMemory(ReadOnlySpan<int> from);

    private protected abstract void DisposeMemory();

    private protected void RequireLive() => ObjectDisposedException.ThrowIf(IsDisposed, this);

    /// <summary>Refuses rows beyond the capacity of a head.</summary>
    private protected void RequireCapacity(int layer, ReadOnlySpan<int> rowsBySequence)
    {
        var heads = Layout.Layers[layer].KvHeads;
        for (var stream = 0; stream < _slots[layer].Streams; stream++)
        {
            var (rows, length) = (rowsBySequence[stream / heads], _slots[layer].Length(stream));
            if (rows > Layout.Capacity - length)
            {
                throw new KvCapacityException(
                    $"layer {layer}, sequence {stream / heads}: {rows} tokens behind {length}, but the cache has room for "
                    + $"{Layout.Capacity}; make it larger, rewind it, or compress it", "keys");
            }
        }
    }

    /// <summary>An array whose address does not change.</summary>
    private protected static T[] Pinned<T>(ReadOnlySpan<T> elements)
    {
        var array = GC.AllocateUninitializedArray<T>(Math.Max(1, elements.Length), pinned: true);
        elements.CopyTo(array);
        return array;
    }

    private void RequireOneEach(ReadOnlySpan<int> numbers, string name)
    {
        if (numbers.Length != Layout.Batch)
            throw new ArgumentException($"{name}: {numbers.Length} numbers for {Layout.Batch} sequences", name);
    }

    /// <summary>Refuses what does not exist, and gives the layer's heads.</summary>
    private int Slots(int layer, int sequence)
    {
        RequireLive();
        if ((uint)layer >= (uint)_slots.Length)
            throw new ArgumentOutOfRangeException(nameof(layer), layer, $"It is not within 0 and {_slots.Length - 1}.");
        if ((uint)sequence >= (uint)Layout.Batch)
            throw new ArgumentOutOfRangeException(nameof(sequence), sequence, $"It is not within 0 and {Layout.Batch - 1}.");
        return Layout.Layers[layer].KvHeads;
    }

    private int Stream(int layer, int sequence, int head)
    {
        var heads = Slots(layer, sequence);
        if ((uint)head >= (uint)heads)
            throw new ArgumentOutOfRangeException(nameof(head), head, $"It is not within 0 and {heads - 1}.");
        return sequence * heads + head;
    }
}

/// <summary>Rows of a head that lie side by side.</summary>
internal readonly unsafe struct KvRun(byte* keys, byte* values, int count)
{
    public byte* Keys => keys;

    public byte* Values => values;

    public int Count => count;
}
