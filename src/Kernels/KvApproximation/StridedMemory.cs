namespace AuxCore.Kernels;

/// <summary>Stretches of memory of one length, a step apart: tokens' rows in a projection, or halves of the pages of a pool.</summary>
internal readonly unsafe struct StridedMemory(byte* first, long step, long count, long length)
{
    private readonly byte* _first = first;
    private readonly long _step = step;
    private readonly long _length = length;
    private readonly long _bytes = count == 0 ? 0 : (count - 1) * step + length;

    /// <summary>Whether a byte may be of both: never where both have one step, and each lies between the stretches of the other.</summary>
    public bool Overlaps(in StridedMemory other)
    {
        if (!NamedMemory.Read("", _first, _bytes).Overlaps(NamedMemory.Read("", other._first, other._bytes)))
            return false;
        if (_step != other._step || _step == 0)
            return true;
        var apart = (other._first - _first) % _step;
        if (apart < 0)
            apart += _step;
        return apart < _length || apart + other._length > _step;
    }
}
