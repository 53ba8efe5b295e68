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
    private KvResiduals? _residuals;

    private protected KvCache(KvLayout layout, KvSlots[]? slots = null)
    {
        ArgumentNullException.ThrowIfNull(layout);
        layout.Check();
        Layout = layout;
        _scales = layout.Keys == KvFormat.Fp8E4M3 || layout.Values == KvFormat.Fp8E4M3 ? Pinned([layout.KeyScale, layout.ValueScale]) : [];
        _slots = slots ?? [.. layout.Layers.Select(layer => new KvSlots(layout.Batch, layer.KvHeads))];
        _residuals = slots is null ? KvResiduals.Of(layout) : null; // a fork gets copies
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
                bytes += _slots[layer].Bytes + _slots[layer].Lengths().Sum(length => HeadBytes(layer, length));
            return bytes;
        }
    }

    /// <summary>Bytes that are held for keys and values, filled or not, in their formats and in float32.</summary>
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
    /// <remarks>
    /// A cache in <see cref="KvFormat.Kivi4"/> goes back as far as it has in float32 what is not quantised at the new length: always by one
    /// token and to the beginning, at most by 32, and anywhere as long as it had no more than <see cref="KvLayout.ResidualLength"/> + 32.
    /// </remarks>
    /// <param name="position">Of the first token to forget.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is negative, or further back than KIVI remembers: nothing changed.</exception>
    public void Rewind(int position)
    {
        var positions = new int[Layout.Batch];
        Array.Fill(positions, position);
        Rewind(positions);
    }

    /// <summary>
    /// Forgets, in all layers, the tokens of each sequence from a position on. What was evicted before does not come back.
    /// </summary>
    /// <inheritdoc cref="Rewind(int)" path="/remarks"/>
    /// <param name="positions">[B].</param>
    /// <exception cref="ArgumentException">Not one number a sequence.</exception>
    /// <exception cref="ArgumentOutOfRangeException">One is negative, or further back than KIVI remembers: nothing changed.</exception>
    public void Rewind(ReadOnlySpan<int> positions)
    {
        RequireLive();
        RequireOneEach(positions, nameof(positions));
        foreach (var position in positions)
            ArgumentOutOfRangeException.ThrowIfNegative(position, nameof(positions));
        RequireMemory(positions);
        for (var layer = 0; layer < _slots.Length; layer++)
        {
            var heads = Layout.Layers[layer].KvHeads;
            for (var stream = 0; stream < _slots[layer].Streams; stream++)
            {
                var length = _slots[layer].CountBelow(stream, positions[stream / heads]);
                Shrink(layer, stream, length);
                Observations?.Shrink(layer, stream, length);
                _residuals?.SetLength(layer, stream, length);
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
        fork._residuals = _residuals?.Copy();
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
        _residuals?.Reorder(from);
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose()
    {
        if (IsDisposed)
            return;
        IsDisposed = true;
        DisposeMemory();
        _residuals?.Dispose();
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

    /// <summary>What to come back to where a pass over so many rows of each sequence fails. One row can always be taken back.</summary>
    internal KvCacheMark Mark(long rows) => new(NextPositions(), rows > 1 ? _residuals?.Copy() : null);

    /// <summary>Comes back to a mark, before which nothing was forgotten since.</summary>
    internal void ReturnTo(KvCacheMark mark)
    {
        if (mark.TakeResiduals() is { } residuals)
        {
            _residuals?.Dispose();
            _residuals = residuals;
        }

        Rewind(mark.Positions);
    }

    private protected IReadOnlyList<KvSlots> AllSlots => _slots;

    private protected long KeyRowBytes(int layer) => Layout.Keys.ByteCount(Layout.Layers[layer].HeadDim);

    private protected long ValueRowBytes(int layer) => Layout.Values.ByteCount(Layout.Layers[layer].HeadDim);

    /// <summary>Bytes of the rings in which KIVI keeps the latest tokens.</summary>
    private protected long ResidualBytes => _residuals?.Bytes ?? 0;

    /// <summary>Bytes of a head of so many tokens, in their formats or in float32.</summary>
    private long HeadBytes(int layer, int length)
    {
        var (keys, values) = (Layout.StoredKeys(length), Layout.StoredValues(length));
        var exact = 2L * length - keys - values;
        return keys * KeyRowBytes(layer) + values * ValueRowBytes(layer) + exact * Layout.Layers[layer].HeadDim * sizeof(float);
    }

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

    /// <summary>The layer as ops see it, without scales and residuals.</summary>
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

    /// <summary>Refuses to forget more than can be: what follows would be quantised from rows that are no longer there.</summary>
    private void RequireMemory(ReadOnlySpan<int> positions)
    {
        for (var layer = 0; layer < _slots.Length && _residuals is not null; layer++)
        {
            var heads = Layout.Layers[layer].KvHeads;
            for (var stream = 0; stream < _slots[layer].Streams; stream++)
            {
                var (b, length) = (stream / heads, _slots[layer].Length(stream));
                var wanted = _slots[layer].CountBelow(stream, positions[b]);
                var least = wanted;
                while (!_residuals.Remembers(layer, stream, least))
                    least++;
                if (least == wanted)
                    continue;
                throw new ArgumentOutOfRangeException(
                    nameof(positions), positions[b],
                    $"positions[{b}]: {wanted} of {length} tokens would be left of sequence {b} in layer {layer}, but {KvFormat.Kivi4} "
                    + $"remembers what is needed for 0, or for {least} and more; rewind less, fork before what may be taken back, or make "
                    + $"KvLayout.{nameof(KvLayout.ResidualLength)} larger");
            }
        }
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
