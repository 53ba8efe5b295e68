using System.Runtime.InteropServices;

namespace AuxCore.Tests.Ilgpu;

/// <summary>A view as it lies in the parameters of a kernel that ILGPU compiled.</summary>
/// <param name="Address">Of the first element.</param>
/// <param name="Length">Elements.</param>
internal readonly record struct PtxView(nint Address, long Length);

/// <summary>Arrays, pinned, as the memory of an interpreted kernel.</summary>
internal sealed unsafe class PtxArrays : IDisposable
{
    private const nuint Alignment = 256; // a device's

    private readonly List<GCHandle> _pins = [];
    private readonly List<nint> _copies = [];

    public HostPtxMemory Memory { get; } = new();

    public PtxView Add<T>(T[] values, bool writable = false) where T : unmanaged
    {
        if (values.Length == 0)
            return default;
        var pin = GCHandle.Alloc(values, GCHandleType.Pinned);
        _pins.Add(pin);
        Memory.Allow((void*)pin.AddrOfPinnedObject(), (long)values.Length * sizeof(T), writable);
        return new(pin.AddrOfPinnedObject(), values.Length);
    }

    /// <summary>A copy that begins where a device's memory would, so that vectors fit.</summary>
    public PtxView AddCopy<T>(T[] values, bool writable = false) where T : unmanaged
    {
        if (values.Length == 0)
            return default;
        var copy = (T*)NativeMemory.AlignedAlloc((nuint)values.Length * (nuint)sizeof(T), Alignment);
        _copies.Add((nint)copy);
        values.CopyTo(new Span<T>(copy, values.Length));
        Memory.Allow(copy, (long)values.Length * sizeof(T), writable);
        return new((nint)copy, values.Length);
    }

    /// <summary>What a copy holds now.</summary>
    public static T[] Read<T>(PtxView copy) where T : unmanaged => new ReadOnlySpan<T>((void*)copy.Address, (int)copy.Length).ToArray();

    public void Dispose()
    {
        _pins.ForEach(pin => pin.Free());
        _copies.ForEach(copy => NativeMemory.AlignedFree((void*)copy));
    }
}
