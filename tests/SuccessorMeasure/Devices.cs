using AuxCore.Interop;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>
/// Tensors in device memory, which end together. Each lies between other elements, that nobody may change, and not on a round address.
/// </summary>
internal sealed class Devices : IDisposable
{
    private const int Margin = 3;

    private readonly List<IDisposable> _buffers = [];
    private readonly List<Action> _checks = [];

    public TensorView Add<T>(T[] values, params ReadOnlySpan<long> shape) where T : unmanaged
    {
        T[] memory = [.. Filler<T>(), .. values, .. Filler<T>()];
        var buffer = Keep(DeviceBuffer.CopyOf<T>(memory));
        _checks.Add(() =>
        {
            var now = buffer.ToArray();
            Assert.Equal(Filler<T>(), now[..Margin]);
            Assert.Equal(Filler<T>(), now[^Margin..]);
        });
        return buffer.ViewAt(Margin, shape.IsEmpty ? [values.Length] : shape);
    }

    /// <summary>What a tensor of this class holds now.</summary>
    public static unsafe T[] Read<T>(in TensorView view, CudaStream? stream = null) where T : unmanaged
    {
        var values = new T[view.ElementCount];
        fixed (T* to = values)
            NativeStatus.Check(
                Native.CopyToHost(
                    CudaContext.Of(view.Device.Index, "test").Handle, stream?.Handle ?? 0, to, (ulong)view.Address, view.ByteCount),
                    "test");
        return values;
    }

    /// <summary>Bits for comparison; which NaN it is is the hardware's affair.</summary>
    public static int[] Bits(float[] values) =>
        [.. values.Select(value => BitConverter.SingleToInt32Bits(float.IsNaN(value) ? float.NaN : value))];

    public T Keep<T>(T buffer) where T : IDisposable
    {
        _buffers.Add(buffer);
        return buffer;
    }

    public void CheckMargins() => _checks.ForEach(check => check());

    public void Dispose() => _buffers.ForEach(buffer => buffer.Dispose());

    private static T[] Filler<T>() where T : unmanaged => [.. Enumerable.Range(0, Margin).Select(_ => Pattern<T>())];

    private static unsafe T Pattern<T>() where T : unmanaged
    {
        T value;
        new Span<byte>(&value, sizeof(T)).Fill(typeof(T) == typeof(bool) ? (byte)1 : (byte)0x5a);
        return value;
    }
}
