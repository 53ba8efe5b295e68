using System.Buffers;
using System.Runtime.InteropServices;

namespace AuxCore.Kernels;

/// <summary>
/// Memory of one call, from the shared pool, so that repeated calls neither allocate nor fault pages in. Blocks begin on cache lines.
/// </summary>
internal sealed unsafe class Scratch : IDisposable
{
    private const int CacheLine = 64;

    private readonly List<(byte[] Array, GCHandle Pin)> _rented = [];

    /// <summary>Bytes that were asked for.</summary>
    public long Bytes { get; private set; }

    /// <summary>A block that holds anything.</summary>
    public T* Take<T>(long count) where T : unmanaged
    {
        var bytes = checked(count * sizeof(T));
        var array = ArrayPool<byte>.Shared.Rent(checked((int)(bytes + CacheLine)));
        var pin = GCHandle.Alloc(array, GCHandleType.Pinned);
        _rented.Add((array, pin));
        Bytes += bytes;
        return (T*)((pin.AddrOfPinnedObject() + CacheLine - 1) & ~(nint)(CacheLine - 1));
    }

    /// <summary>A block of zeros.</summary>
    public T* TakeZeroed<T>(long count) where T : unmanaged
    {
        var block = Take<T>(count);
        NativeMemory.Clear(block, (nuint)(count * sizeof(T)));
        return block;
    }

    public void Dispose()
    {
        foreach (var (array, pin) in _rented)
        {
            pin.Free();
            ArrayPool<byte>.Shared.Return(array);
        }

        _rented.Clear();
    }
}
