using AuxCore.Interop;
using CsCheck;

namespace AuxCore.Tests.Cuda;

public class DeviceBufferTests
{
    public DeviceBufferTests() => CudaDriver.Require();

    [Fact]
    public void What_is_copied_in_comes_out()
    {
        Gen.Double.Array[0, 300].Sample(values =>
        {
            using var buffer = DeviceBuffer.CopyOf<double>(values);
            return buffer.ToArray().AsSpan().SequenceEqual(values);
        });
    }

    [Fact]
    public void A_buffer_knows_its_length_type_place_and_address()
    {
        using var buffer = DeviceBuffer.Allocate<BFloat16>(7);

        Assert.Equal((7, DType.BFloat16, new AuxDevice(AuxDeviceKind.Cuda)), (buffer.Length, buffer.DType, buffer.Device));
        Assert.Equal(0, buffer.Address % 256);
        Assert.NotEqual(0, buffer.Address);
    }

    [Fact]
    public void A_buffer_may_be_empty()
    {
        using var buffer = DeviceBuffer.Allocate<float>(0);

        buffer.CopyFrom([]);
        buffer.FillBytes(1);

        Assert.Empty(buffer.ToArray());
        Assert.Equal(0, buffer.Address);
        Assert.Equal(0, buffer.View(0, 3).ElementCount);
    }

    [Fact]
    public void Bytes_are_filled()
    {
        using var buffer = DeviceBuffer.Allocate<byte>(5);

        buffer.FillBytes(0xA5);

        Assert.Equal([0xA5, 0xA5, 0xA5, 0xA5, 0xA5], buffer.ToArray());
    }

    [Fact]
    public void Views_have_address_shape_and_owner()
    {
        using var buffer = DeviceBuffer.Allocate<float>(12);

        var whole = buffer.View(3, 4);
        var part = buffer.ViewAt(5, 2, 3);

        Assert.Equal(buffer.Address, whole.Address);
        Assert.Equal(buffer.Address + 20, part.Address);
        Assert.Equal("float32[2, 3] on cuda:0", part.ToString());
        Assert.Same(buffer, part.Owner);
    }

    [Fact]
    public void Views_beyond_the_buffer_are_refused()
    {
        using var buffer = DeviceBuffer.Allocate<float>(12);

        Assert.Contains("[3, 5] does not match the buffer's 12", Refused<ArgumentException>(() => buffer.View(3, 5)),
            StringComparison.Ordinal);
        Assert.Contains("[2, 4] from element 5 on", Refused<ArgumentException>(() => buffer.ViewAt(5, 2, 4)), StringComparison.Ordinal);
        Refused<ArgumentOutOfRangeException>(() => buffer.ViewAt(13, 0));
        Refused<ArgumentOutOfRangeException>(() => buffer.ViewAt(-1, 1));
    }

    [Fact]
    public void Copies_of_another_length_are_refused()
    {
        using var buffer = DeviceBuffer.CopyOf<float>([1, 2, 3]);

        Assert.Contains("source: 2 elements do not match the buffer's 3", Refused<ArgumentException>(() => buffer.CopyFrom([7, 8])),
            StringComparison.Ordinal);
        Assert.Contains("destination: 4 elements", Refused<ArgumentException>(() => buffer.CopyTo(new float[4])), StringComparison.Ordinal);
        Assert.Equal([1, 2, 3], buffer.ToArray());
    }

    [Fact]
    public void Lengths_that_cannot_be_are_refused()
    {
        Refused<ArgumentOutOfRangeException>(() => DeviceBuffer.Allocate<float>(-1));
        Refused<ArgumentOutOfRangeException>(() => DeviceBuffer.Allocate<float>(long.MaxValue));
        Refused<NotSupportedException>(() => DeviceBuffer.Allocate<Guid>(1));
        Assert.Contains("cuMemAlloc", Refused<CudaException>(() => DeviceBuffer.Allocate<byte>(1L << 60)), StringComparison.Ordinal);
        Assert.Contains("no CUDA device 99", Refused<BackendUnavailableException>(() => DeviceBuffer.Allocate<byte>(1, 99)),
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_disposed_buffer_is_refused()
    {
        var buffer = DeviceBuffer.Allocate<float>(2);
        buffer.Dispose();
        buffer.Dispose();

        Assert.True(buffer.IsDisposed);
        Refused<ObjectDisposedException>(() => buffer.Address.ToString());
        Refused<ObjectDisposedException>(() => buffer.CopyFrom([1, 2]));
        Refused<ObjectDisposedException>(() => buffer.ToArray());
        Refused<ObjectDisposedException>(() => buffer.FillBytes(0));
        Refused<ObjectDisposedException>(() => buffer.View(2));
    }

    [Fact]
    public async Task Many_threads_may_allocate_copy_and_free()
    {
        await Task.WhenAll(Enumerable.Range(0, 8).Select(thread => Task.Run(() =>
        {
            for (var round = 0; round < 20; round++)
            {
                var values = Enumerable.Range(thread * 100, 50 + round).ToArray();
                using var stream = CudaStream.Create();
                using var buffer = DeviceBuffer.Allocate<int>(values.Length);
                buffer.CopyFrom(values, stream);
                Assert.Equal(values, buffer.ToArray(stream));
            }
        })));
    }

    private static string Refused<TException>(Action action) where TException : Exception => Assert.Throws<TException>(action).Message;
}
