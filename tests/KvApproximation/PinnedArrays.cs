using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Tests.KvApproximation;

/// <summary>Arrays as views, for as long as this lives.</summary>
internal sealed unsafe class PinnedArrays : IDisposable
{
    private readonly List<GCHandle> _pins = [];

    public TensorView View<T>(T[] array, params ReadOnlySpan<long> shape) where T : unmanaged => View(array, DTypes.Of<T>(), 0, shape);

    public TensorView View<T>(T[] array, DType dtype, int offset, ReadOnlySpan<long> shape) where T : unmanaged =>
        TensorView.FromPointer((T*)Pin(array) + offset, dtype, shape);

    public TensorView Strided<T>(T[] array, DType dtype, int offset, ReadOnlySpan<long> shape, ReadOnlySpan<long> strides)
        where T : unmanaged =>
        TensorView.FromPointer((T*)Pin(array) + offset, dtype, shape, strides);

    public void Dispose()
    {
        foreach (var pin in _pins)
            pin.Free();
        _pins.Clear();
    }

    private nint Pin(Array array)
    {
        var pin = GCHandle.Alloc(array, GCHandleType.Pinned);
        _pins.Add(pin);
        return pin.AddrOfPinnedObject();
    }
}
