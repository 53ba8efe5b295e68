using System.Runtime.InteropServices;

namespace AuxCore.Tests.Ilgpu;

/// <summary>A view as it lies in the parameters of a kernel that ILGPU compiled.</summary>
/// <param name="Address">Of the first element.</param>
/// <param name="Length">Elements.</param>
internal readonly record struct PtxView(nint Address, long Length);

/// <summary>Arrays, pinned, as the memory of an interpreted kernel.</summary>
internal sealed unsafe class PtxArrays : IDisposable
{
    private readonly List<GCHandle> _pins = [];

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

    public void Dispose() => _pins.ForEach(pin => pin.Free());
}
