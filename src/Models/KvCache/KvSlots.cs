using System.Runtime.InteropServices;

namespace AuxCore.Models;

/// <summary>
/// Which positions the heads of one layer hold, in ascending order. Heads of a sequence share one list as long as all hold the same, which
/// they do until something evicts by head.
/// </summary>
internal sealed class KvSlots
{
    private readonly int _heads;
    private readonly List<int>[] _positions; // [B · Hkv]
    private readonly int[] _next;            // [B]: one past the greatest position that was ever appended

    public KvSlots(int batch, int heads)
    {
        (_heads, _next, _positions) = (heads, new int[batch], new List<int>[batch * heads]);
        for (var b = 0; b < batch; b++)
            SetShared(b, []);
    }

    private KvSlots(KvSlots source)
    {
        (_heads, _next, _positions) = (source._heads, [.. source._next], new List<int>[source._positions.Length]);
        for (var b = 0; b < _next.Length; b++)
            CopyFrom(source, b, b);
    }

    /// <summary>B · Hkv: heads of all sequences, those of a sequence one after the other.</summary>
    public int Streams => _positions.Length;

    /// <summary>Bytes of the lists.</summary>
    public long Bytes
    {
        get
        {
            var count = 0L;
            for (var stream = 0; stream < Streams; stream++)
                count += IsShared(stream / _heads) && stream % _heads > 0 ? 0 : _positions[stream].Count;
            return count * sizeof(int);
        }
    }

    /// <summary>Whether all heads of each sequence hold the same.</summary>
    public bool IsUniform => Enumerable.Range(0, _next.Length).All(IsShared);

    public int Length(int stream) => _positions[stream].Count;

    public int[] Lengths() => [.. _positions.Select(list => list.Count)];

    public int Next(int sequence) => _next[sequence];

    public ReadOnlySpan<int> Positions(int stream) => CollectionsMarshal.AsSpan(_positions[stream]);

    public KvSlots Copy() => new(this);

    public void Append(int sequence, ReadOnlySpan<int> positions)
    {
        if (positions.IsEmpty)
            return;
        for (var head = 0; head < (IsShared(sequence) ? 1 : _heads); head++)
            _positions[sequence * _heads + head].AddRange(positions);
        _next[sequence] = positions[^1] + 1;
    }

    /// <summary>How many of a head's slots hold positions below one.</summary>
    public int CountBelow(int stream, int position)
    {
        var at = _positions[stream].BinarySearch(position);
        return at < 0 ? ~at : at;
    }

    /// <summary>Forgets positions from one on.</summary>
    public void Truncate(int sequence, int position)
    {
        for (var head = 0; head < (IsShared(sequence) ? 1 : _heads); head++)
        {
            var list = _positions[sequence * _heads + head];
            var count = CountBelow(sequence * _heads + head, position);
            list.RemoveRange(count, list.Count - count);
        }

        _next[sequence] = Math.Min(_next[sequence], position);
    }

    /// <summary>Keeps some slots of each head of a sequence.</summary>
    public void Keep(int sequence, IReadOnlyList<int[]> keptByHead)
    {
        if (IsShared(sequence) && keptByHead.All(kept => kept.AsSpan().SequenceEqual(keptByHead[0])))
        {
            SetShared(sequence, Kept(_positions[sequence * _heads], keptByHead[0]));
            return;
        }

        for (var head = 0; head < _heads; head++)
            _positions[sequence * _heads + head] = Kept(_positions[sequence * _heads + head], keptByHead[head]);

        static List<int> Kept(List<int> positions, int[] slots) => [.. slots.Select(slot => positions[slot])];
    }

    /// <summary>Sequence b becomes what sequence from[b] was.</summary>
    public KvSlots Reordered(ReadOnlySpan<int> from)
    {
        var result = new KvSlots(from.Length, _heads);
        for (var b = 0; b < from.Length; b++)
            result.CopyFrom(this, from[b], b);
        return result;
    }

    private bool IsShared(int sequence) =>
        _heads == 1 || ReferenceEquals(_positions[sequence * _heads], _positions[sequence * _heads + 1]);

    private void SetShared(int sequence, List<int> positions) => Array.Fill(_positions, positions, sequence * _heads, _heads);

    private void CopyFrom(KvSlots source, int from, int to)
    {
        _next[to] = source._next[from];
        if (source.IsShared(from))
        {
            SetShared(to, [.. source._positions[from * _heads]]);
            return;
        }

        for (var head = 0; head < _heads; head++)
            _positions[to * _heads + head] = [.. source._positions[from * _heads + head]];
    }
}
