using AuxCore.Interop;

namespace AuxCore.Tests.Cuda;

public class CudaStreamTests
{
    public CudaStreamTests() => CudaDriver.Require();

    [Fact]
    public void Streams_are_ordered_only_where_asked()
    {
        using var first = CudaStream.Create();
        using var second = CudaStream.Create();
        using var buffer = DeviceBuffer.Allocate<byte>(64);

        buffer.FillBytes(3, first);
        second.WaitFor(first);
        buffer.FillBytes(4, second);

        Assert.Equal(4, buffer.ToArray(second)[63]);
        first.Synchronize();
    }

    [Fact]
    public void The_default_stream_is_null_and_a_foreign_one_stays_its_owners()
    {
        using var owned = CudaStream.Create();
        using (var foreign = CudaStream.FromHandle(owned.Handle))
        {
            Assert.Equal(owned.Handle, foreign.Handle);
            Assert.NotEqual(0, foreign.Handle);
        }

        owned.Synchronize();
        using var standard = CudaStream.Default();
        Assert.Equal((0, new AuxDevice(AuxDeviceKind.Cuda)), (standard.Handle, standard.Device));
        standard.Synchronize();
    }

    [Fact]
    public void A_disposed_stream_is_refused()
    {
        var stream = CudaStream.Create();
        using var buffer = DeviceBuffer.Allocate<byte>(4);
        using var other = CudaStream.Create();
        stream.Dispose();
        stream.Dispose();

        Assert.Throws<ObjectDisposedException>(stream.Synchronize);
        Assert.Throws<ObjectDisposedException>(() => other.WaitFor(stream));
        Assert.Throws<ObjectDisposedException>(() => stream.WaitFor(other));
        Assert.Throws<ObjectDisposedException>(() => buffer.FillBytes(0, stream));
        Assert.Throws<ArgumentNullException>(() => other.WaitFor(null!));
    }

    [Fact]
    public void A_device_that_is_not_there_is_refused() =>
        Assert.Contains("no CUDA device 99", Assert.Throws<BackendUnavailableException>(() => CudaStream.Create(99)).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Streams_of_another_device_are_refused()
    {
        Assert.SkipUnless(CudaDevice.Count > 1, "needs two devices");
        using var here = CudaStream.Create();
        using var there = CudaStream.Create(1);
        using var buffer = DeviceBuffer.CopyOf<byte>([7]);

        Assert.Contains("a stream of cuda:1", Assert.Throws<ArgumentException>(() => here.WaitFor(there)).Message,
            StringComparison.Ordinal);
        Assert.Contains("stream: a stream of cuda:1, but the memory is on cuda:0",
            Assert.Throws<ArgumentException>(() => buffer.FillBytes(1, there)).Message, StringComparison.Ordinal);
        Assert.Contains("is of another context", Assert.Throws<ArgumentException>(() => CudaStream.FromHandle(there.Handle)).Message,
            StringComparison.Ordinal);
        Assert.Equal([7], buffer.ToArray());
    }

    [Fact]
    public void What_is_no_stream_is_refused_by_the_driver()
    {
        CudaDriver.RequireStandin(); // a real driver may crash on it

        Assert.Equal(400, Assert.Throws<CudaException>(() => CudaStream.FromHandle(0x1234)).Status);
    }

    [Fact]
    public void Devices_are_described()
    {
        var device = CudaDevice.Get(0);

        Assert.Equal(0, device.Ordinal);
        Assert.NotEmpty(device.Name);
        Assert.True(device.ComputeCapability >= new Version(5, 0), $"{device}");
        Assert.True(device.Multiprocessors > 0 && device.MemoryBytes > 1 << 20, $"{device}");
        Assert.True(device.DriverVersion >= new Version(11, 1), $"{device}");
        Assert.Contains($"cuda:0          {device.Name}", AuxRuntime.Describe(), StringComparison.Ordinal);
    }
}
