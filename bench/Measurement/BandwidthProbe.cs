using System.Numerics;
using System.Runtime.InteropServices;

namespace AuxCore.Bench.Measurement;

/// <summary>
/// What one thread's memory gives: an in-place triad y ← y + s·x (12 bytes an element: two reads, one write) or a copy y ← x (8 bytes). It
/// is timed as one more arm among those it is a reference for. It is a reference and no ceiling: a kernel with a better mix of reads and
/// writes can exceed it.
/// </summary>
internal sealed unsafe class BandwidthProbe : IDisposable
{
    private const float Scale = 1e-6f; // so small that y stays finite however often the triad runs

    // Twice a large last-level cache: by the time that a buffer's turn comes again, it has been evicted.
    private const long RotationBytes = 2L * 64 * 1024 * 1024;

    private readonly long _elements;
    private readonly long _sourceOffset; // from y to x, in floats
    private readonly long _stride;       // from one pair of buffers to the next, in floats
    private readonly long _pairs;
    private readonly bool _inPlace;
    private float* _memory;
    private long _turn;

    /// <summary>Allocates and touches the buffers.</summary>
    /// <param name="inPlace">Triad if true, copy if false.</param>
    /// <param name="bytesPerCall">How many bytes a call is to move; rounded up to a whole vector.</param>
    public BandwidthProbe(bool inPlace, long bytesPerCall)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytesPerCall);
        _inPlace = inPlace;
        long bytesPerElement = inPlace ? 12 : 8;
        _elements = RoundUp((bytesPerCall + bytesPerElement - 1) / bytesPerElement, 4 * Vector<float>.Count);
        BytesPerCall = _elements * bytesPerElement;

        // x half a page off y: loads that share the low 12 address bits with a store in flight wait for it.
        _sourceOffset = _elements * sizeof(float) < 1 << 15 ? _elements : RoundUp(_elements, 1024) + 512;
        _stride = _sourceOffset + _elements;
        _pairs = Math.Max(1, (RotationBytes + _stride * sizeof(float) - 1) / (_stride * sizeof(float)));
        if (_pairs > 1) _pairs++;

        long count = _pairs * _stride;
        _memory = (float*)NativeMemory.AlignedAlloc(checked((nuint)(count * sizeof(float))), 64);
        for (long i = 0; i < count; i++) _memory[i] = 1; // the first touch takes the pages
    }

    /// <summary>The bytes that one <see cref="Run"/> reads and writes, without what a write-allocating cache adds.</summary>
    public long BytesPerCall { get; }

    /// <summary>How many pairs of buffers take turns.</summary>
    public long Pairs => _pairs;

    /// <summary>One pass over the next pair of buffers.</summary>
    public void Run()
    {
        ObjectDisposedException.ThrowIf(_memory == null, this);
        float* target = _memory + _turn * _stride, source = target + _sourceOffset;
        _turn = (_turn + 1) % _pairs;
        if (_inPlace) Triad(target, source, _elements);
        else Copy(target, source, _elements);
    }

    /// <summary>Element <paramref name="index"/> of the target that the next call writes.</summary>
    internal ref float NextTarget(long index) => ref _memory[_turn * _stride + index];

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }

    private static void Triad(float* y, float* x, long count)
    {
        int width = Vector<float>.Count;
        for (float* end = y + count; y < end; y += 4 * width, x += 4 * width)
        {
            Vector.Store(Vector.Load(y) + Scale * Vector.Load(x), y);
            Vector.Store(Vector.Load(y + width) + Scale * Vector.Load(x + width), y + width);
            Vector.Store(Vector.Load(y + 2 * width) + Scale * Vector.Load(x + 2 * width), y + 2 * width);
            Vector.Store(Vector.Load(y + 3 * width) + Scale * Vector.Load(x + 3 * width), y + 3 * width);
        }
    }

    private static void Copy(float* y, float* x, long count)
    {
        int width = Vector<float>.Count;
        for (float* end = y + count; y < end; y += 4 * width, x += 4 * width)
        {
            Vector<float> a = Vector.Load(x), b = Vector.Load(x + width), c = Vector.Load(x + 2 * width), d = Vector.Load(x + 3 * width);
            Vector.Store(a, y);
            Vector.Store(b, y + width);
            Vector.Store(c, y + 2 * width);
            Vector.Store(d, y + 3 * width);
        }
    }

    private static long RoundUp(long value, long multiple) => (value + multiple - 1) / multiple * multiple;
}
