using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using CsCheck;

namespace AuxCore.Tests.Ema;

/// <summary>EmaUpdate on device memory: the bits of the CPU backend, whatever the type, length, alignment and number of tensors.</summary>
public class EmaUpdateCudaTests
{
    private const float Canary = 12345.678f;

    public EmaUpdateCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(DType.Float32)]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float16)]
    public void Agrees_with_the_Cpu_bit_for_bit(DType dtype)
    {
        foreach (var length in (int[])[0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 127, 128, 129, 1000, 4095, 4096, 4097, 9001])
        {
            foreach (var (sourceOffset, averageOffset) in ((int, int)[])[(0, 0), (1, 1), (3, 0), (2, 3), (8, 4)])
            {
                foreach (var decay in length > 2000 ? (double[])[0.999, 0.25] : [0, 0.25, 0.5, 0.500001, 0.999, 1 - 1e-9, 1])
                    Check(dtype, length, sourceOffset, averageOffset, decay);
            }
        }
    }

    private static void Check(DType dtype, int length, int sourceOffset, int averageOffset, double decay)
    {
        var random = new Random(length + sourceOffset);
        var source = Values(random, length + sourceOffset);
        var average = Values(random, averageOffset + length + 1);
        average[^1] = Canary;
        using var devices = new Tensors();
        var sourceView = devices.Add(source, dtype, sourceOffset, length);
        using var averageBuffer = DeviceBuffer.CopyOf<float>(average);

        EmaUpdate.Run(averageBuffer.ViewAt(averageOffset, length), sourceView, decay);

        OnCpu(average.AsSpan(averageOffset, length), source.AsSpan(sourceOffset), dtype, decay);
        Assert.True(
            EmaUpdateTests.Bits(average).SequenceEqual(EmaUpdateTests.Bits(averageBuffer.ToArray())),
            $"{dtype} n={length} +{sourceOffset} +{averageOffset} decay={decay}");
    }

    [Fact]
    public void Special_values_follow_the_rule()
    {
        float[] specials = [0, -0f, 1, -1, float.NaN, float.PositiveInfinity, float.NegativeInfinity, float.MaxValue, float.MinValue,
            float.Epsilon, 1e-40f];
        float[] e = [.. specials.SelectMany(_ => specials)];
        float[] p = [.. specials.SelectMany(value => Enumerable.Repeat(value, specials.Length))];
        foreach (var decay in (double[])[0, 0.25, 0.5, 0.9, 0.9999, 1])
        {
            var expected = (float[])e.Clone();
            EmaUpdate.Run(expected, p, decay, AuxBackend.Cpu);
            using var average = DeviceBuffer.CopyOf<float>(e);
            using var source = DeviceBuffer.CopyOf<float>(p);

            EmaUpdate.Run(average.View(e.Length), source.View(p.Length), decay);

            var actual = average.ToArray();
            for (var i = 0; i < e.Length; i++)
            {
                var same = float.IsNaN(expected[i]) && decay > 0 && decay < 1
                    ? float.IsNaN(actual[i]) // which NaN is the hardware's affair
                    : BitConverter.SingleToInt32Bits(expected[i]) == BitConverter.SingleToInt32Bits(actual[i]);
                Assert.True(same, $"decay={decay} e={e[i]:R} p={p[i]:R}: {actual[i]:R}, not {expected[i]:R}");
            }
        }
    }

    [Fact]
    public void Averages_in_bfloat16_are_refused_by_Ilgpu_before_anything_is_written()
    {
        using var average = DeviceBuffer.CopyOf<BFloat16>([(BFloat16)1f]);
        using var source = DeviceBuffer.CopyOf<float>([2f]);
        var (averageView, sourceView) = (average.View(1), source.View(1));

        Assert.Throws<BackendUnavailableException>(
            () => EmaUpdate.Run(averageView, sourceView, 0.5, EmaRounding.Stochastic(1, 1), AuxBackend.Ilgpu));

        Assert.Equal(1f, average.ToArray()[0]);
    }

    [Fact]
    public void Thousands_of_tensors_of_mixed_types_equal_a_loop_bit_for_bit()
    {
        var random = new Random(5);
        int[] lengths = [.. Enumerable.Range(0, 3000).Select(i => i % 7 == 0 ? 0 : i % 500 == 1 ? 9000 : random.Next(1, 60))];
        DType[] dtypes = [DType.Float32, DType.BFloat16, DType.Float16];
        var sources = lengths.Select(length => Values(random, length)).ToArray();
        var averages = lengths.Select(length => Values(random, length)).ToArray();
        using var devices = new Tensors();
        TensorView[] sourceViews =
            [.. sources.Select((values, i) => devices.Add(values, dtypes[i % 3], i % 2, Math.Max(0, values.Length - i % 2)))];
        var averageBuffers = averages.Select(devices.Add).ToArray();
        using var group = EmaGroup.FromViews(
            sourceViews, [[.. averageBuffers.Select((buffer, i) => buffer.ViewAt(0, sourceViews[i].ElementCount))]]);

        group.Update(0.9);
        group.Update(0.9);

        for (var i = 0; i < lengths.Length; i++)
        {
            var count = (int)sourceViews[i].ElementCount;
            for (var round = 0; round < 2; round++)
                OnCpu(averages[i].AsSpan(0, count), sources[i].AsSpan(Math.Min(i % 2, sources[i].Length)), dtypes[i % 3], 0.9);
            Assert.Equal(EmaUpdateTests.Bits(averages[i]), EmaUpdateTests.Bits(averageBuffers[i].ToArray()));
        }
    }

    [Theory]
    [InlineData(new[] { 0.999, 0.9999 })]
    [InlineData(new[] { 0.9, 0.5, 0.25 })]
    [InlineData(new[] { 0, 1, 0.99, 0.3 })]
    [InlineData(new[] { 0.99, 0.999, 0.9999, 0.9, 0.95, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.85, 0.91, 0.92, 0.93, 0.94, 0.96 })]
    public void Several_averages_equal_several_runs_bit_for_bit(double[] decays)
    {
        var random = new Random(4);
        int[] lengths = [1, 0, 8193, 3, 4096, 15];
        using var devices = new Tensors();
        var sources = lengths.Select(length => Values(random, length)).ToArray();
        var averages = decays.Select(_ => lengths.Select(length => Values(random, length)).ToArray()).ToArray();
        var sourceBuffers = sources.Select(devices.Add).ToArray();
        var averageBuffers = averages.Select(list => list.Select(devices.Add).ToArray()).ToArray();
        using var group = EmaGroup.FromViews(
            [.. sourceBuffers.Select(buffer => buffer.View(buffer.Length))],
            [.. averageBuffers.Select(list => list.Select(buffer => buffer.View(buffer.Length)).ToArray())]);

        for (var round = 0; round < 3; round++)
        {
            double[] now = [.. decays.Select(decay => round == 1 ? 1 - decay : decay)];
            group.Update(now);
            for (var k = 0; k < decays.Length; k++)
            {
                for (var i = 0; i < lengths.Length; i++)
                    EmaUpdate.Run(averages[k][i], sources[i], now[k], AuxBackend.Cpu);
            }
        }

        for (var k = 0; k < decays.Length; k++)
        {
            for (var i = 0; i < lengths.Length; i++)
                Assert.Equal(EmaUpdateTests.Bits(averages[k][i]), EmaUpdateTests.Bits(averageBuffers[k][i].ToArray()));
        }
    }

    [Fact]
    public void A_cut_anywhere_changes_no_bit() =>
        Gen.Select(Gen.Int[0, 300], Gen.Double[0, 1]).Sample((cut, decay) =>
        {
            var random = new Random(cut);
            var (source, whole) = (Values(random, 300), Values(random, 300));
            using var sourceBuffer = DeviceBuffer.CopyOf<float>(source);
            using var wholeBuffer = DeviceBuffer.CopyOf<float>(whole);
            using var partsBuffer = DeviceBuffer.CopyOf<float>(whole);

            EmaUpdate.Run(wholeBuffer.View(300), sourceBuffer.View(300), decay);
            EmaUpdate.Run(partsBuffer.ViewAt(0, cut), sourceBuffer.ViewAt(0, cut), decay);
            EmaUpdate.Run(partsBuffer.ViewAt(cut, 300 - cut), sourceBuffer.ViewAt(cut, 300 - cut), decay);

            return EmaUpdateTests.Bits(wholeBuffer.ToArray()).SequenceEqual(EmaUpdateTests.Bits(partsBuffer.ToArray()));
        }, iter: 40);

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var stream = CudaStream.Create();
        using var source = DeviceBuffer.CopyOf<float>([4, 8]);
        using var average = DeviceBuffer.CopyOf<float>([0, 0]);
        using var group = EmaGroup.FromViews([source.View(2)], [[average.View(2)]]);

        group.Update(0.5, stream: stream);
        group.Update(0.5, AuxBackend.Cuda, stream);

        Assert.Equal([3, 6], average.ToArray(stream));
    }

    [Fact]
    public void A_stream_of_another_device_or_for_host_memory_is_refused()
    {
        using var stream = CudaStream.Create();
        var host = new float[] { 1, 2 };
        using var onHost = EmaGroup.Pin<float>([new float[2]], [host]);

        Assert.Contains("stream: a stream of cuda:0, but the memory is on cpu",
            Assert.Throws<ArgumentException>(() => onHost.Update(0.5, stream: stream)).Message, StringComparison.Ordinal);
        Assert.Equal([1, 2], host);
    }

    [Fact]
    public void A_backend_for_other_memory_is_refused()
    {
        using var source = DeviceBuffer.CopyOf<float>([4]);
        using var average = DeviceBuffer.CopyOf<float>([2]);
        var (host, hostSource) = (new float[1], new float[] { 1 });

        foreach (var backend in (AuxBackend[])[AuxBackend.Cpu, AuxBackend.Reference])
            Assert.Contains("the tensors are on cuda:0",
                Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(average.View(1), source.View(1), 0.5, backend)).Message,
                StringComparison.Ordinal);
        Assert.Contains("the tensors are on cpu",
            Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(host, hostSource, 0.5, AuxBackend.Cuda)).Message,
            StringComparison.Ordinal);
        Assert.Equal([2], average.ToArray());
        Assert.Equal([0], host);
    }

    [Fact]
    public unsafe void A_host_address_that_is_said_to_be_the_devices_is_refused()
    {
        var device = new AuxDevice(AuxDeviceKind.Cuda);
        using var source = DeviceBuffer.CopyOf<float>([4, 4]);
        var host = stackalloc float[] { 1, 2 };
        var view = TensorView.FromPointer(host, DType.Float32, [2], device: device);

        var error = Assert.Throws<ArgumentException>(() => EmaUpdate.Run(view, source.View(2), 0.5));

        Assert.Contains("averages[0][0]: ", error.Message, StringComparison.Ordinal);
        Assert.Contains("is not device memory", error.Message, StringComparison.Ordinal);
        Assert.Equal((1, 2), (host[0], host[1]));
    }

    [Fact]
    public unsafe void An_address_that_is_not_aligned_is_refused()
    {
        using var memory = DeviceBuffer.CopyOf<float>([1, 2, 3, 4]);
        var view = TensorView.FromPointer((byte*)memory.Address + 2, DType.Float32, [1], device: memory.Device, owner: memory);

        Assert.Contains("is not aligned", Assert.Throws<ArgumentException>(() => EmaUpdate.Run(view, memory.ViewAt(2, 1), 0.5)).Message,
            StringComparison.Ordinal);
        Assert.Equal([1, 2, 3, 4], memory.ToArray());
    }

    [Fact]
    public void Memory_that_was_freed_is_refused()
    {
        var source = DeviceBuffer.CopyOf<float>([4]);
        using var average = DeviceBuffer.CopyOf<float>([2]);
        using var group = EmaGroup.FromViews([source.View(1)], [[average.View(1)]]);
        group.Update(0.5);
        source.Dispose();

        Assert.Throws<ObjectDisposedException>(() => group.Update(0.5));

        Assert.Equal([3], average.ToArray());
    }

    [Fact]
    public void A_group_may_not_span_devices()
    {
        using var source = DeviceBuffer.CopyOf<float>([4]);
        var average = new float[1];
        unsafe
        {
            fixed (float* address = average)
            {
                var view = TensorView.FromPointer(address, DType.Float32, [1]);
                Assert.Contains("a group lives on one device",
                    Assert.Throws<ArgumentException>(() => EmaUpdate.Run(view, source.View(1), 0.5)).Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void Groups_of_several_threads_do_not_disturb_each_other()
    {
        using var source = DeviceBuffer.CopyOf<float>([.. Enumerable.Range(0, 500).Select(i => (float)i)]);
        Parallel.For(0, 8, _ =>
        {
            using var stream = CudaStream.Create();
            using var average = DeviceBuffer.CopyOf<float>(new float[500]);
            using var group = EmaGroup.FromViews([source.View(500)], [[average.View(500)]]);
            for (var round = 0; round < 10; round++)
                group.Update(0.5, stream: stream);
            var values = average.ToArray(stream);
            Assert.Equal(499 * (1 - 1 / 1024f), values[499], 1e-3f);
        });
    }

    private static float[] Values(Random random, int length) =>
        [.. Enumerable.Range(0, length).Select(_ => random.Next(9) == 0 ? 0 : (float)(random.NextDouble() - 0.5) * 8)];

    private static void OnCpu(Span<float> average, ReadOnlySpan<float> source, DType dtype, double decay)
    {
        switch (dtype)
        {
            case DType.Float32:
                EmaUpdate.Run(average, source, decay, AuxBackend.Cpu);
                break;
            case DType.BFloat16:
                EmaUpdate.Run(average, [.. source.ToArray().Select(value => (BFloat16)value)], decay, AuxBackend.Cpu);
                break;
            default:
                EmaUpdate.Run(average, [.. source.ToArray().Select(value => (Half)value)], decay, AuxBackend.Cpu);
                break;
        }
    }

    /// <summary>Device buffers that end together.</summary>
    private sealed class Tensors : IDisposable
    {
        private readonly List<IDisposable> _buffers = [];

        public DeviceBuffer<float> Add(float[] values) => Keep(DeviceBuffer.CopyOf<float>(values));

        public TensorView Add(float[] values, DType dtype, int offset, int length) => dtype switch
        {
            DType.Float32 => Add(values).ViewAt(Math.Min(offset, values.Length), length),
            DType.BFloat16 => Keep(DeviceBuffer.CopyOf<BFloat16>([.. values.Select(value => (BFloat16)value)]))
                .ViewAt(Math.Min(offset, values.Length), length),
            _ => Keep(DeviceBuffer.CopyOf<Half>([.. values.Select(value => (Half)value)]))
                .ViewAt(Math.Min(offset, values.Length), length),
        };

        public void Dispose() => _buffers.ForEach(buffer => buffer.Dispose());

        private DeviceBuffer<T> Keep<T>(DeviceBuffer<T> buffer) where T : unmanaged
        {
            _buffers.Add(buffer);
            return buffer;
        }
    }
}
