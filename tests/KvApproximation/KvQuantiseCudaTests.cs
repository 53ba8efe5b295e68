using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>KvQuantise on device memory: the bytes of the CPU backend. One test counts the launches of the whole process.</summary>
[Collection(ProcessWide.Name)]
public class KvQuantiseCudaTests
{
    public KvQuantiseCudaTests() => CudaDriver.Require();

    public static TheoryData<KvFormat> Formats => [.. Enum.GetValues<KvFormat>()];

    [Theory]
    [MemberData(nameof(Formats))]
    public void The_bytes_are_those_of_the_Cpu(KvFormat format)
    {
        foreach (var rows in (int[])[1, 3, 127, 129])
        {
            var (x, scale) = (KvSamples.Elements(rows * 64, seed: rows), format == KvFormat.Fp8E4M3 ? 0.37f : 1);
            var expected = new byte[format.ByteCount(x.Length)];
            KvQuantise.Run(x, format, expected, scale);
            foreach (var isAligned in (bool[])[true, false])
            {
                using var devices = new Devices();
                var elements = View(devices, x, isAligned, rows, 64);
                var stored = Bytes(devices, new byte[expected.Length], rows, isAligned);
                KvQuantise.Run(elements, format, stored, scale);
                Assert.Equal(expected, Devices.Read<byte>(stored));

                var back = new float[x.Length];
                KvQuantise.Dequantise(expected, format, back, scale);
                var restored = View(devices, new float[x.Length], isAligned, rows, 64);
                KvQuantise.Dequantise(stored, format, restored, scale);
                Assert.Equal(Devices.Bits(back), Devices.Bits(Devices.Read<float>(restored)));
                devices.CheckMargins();
            }
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void No_elements_are_no_work(KvFormat format)
    {
        using var devices = new Devices();
        var launches = CudaDriver.IsStandin ? CudaDriver.Launches : 0;
        var stored = devices.Keep(DeviceBuffer.Allocate<byte>(16)).ViewAt(0, 0, format.ByteCount(32));
        KvQuantise.Run(devices.Add<float>([], 0, 32), format, stored);
        Assert.Equal(launches, CudaDriver.IsStandin ? CudaDriver.Launches : 0);
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var x = KvSamples.Elements(64, seed: 2);
        var (elements, stored) = (devices.Add(x, 2, 32), devices.Add(new byte[68], 2, 34));
        var expected = new byte[68];
        KvQuantise.Run(x, KvFormat.Q8_0, expected);
        KvQuantise.Run(elements, KvFormat.Q8_0, stored, stream: stream);
        Assert.Equal(expected, Devices.Read<byte>(stored, stream));
        KvQuantise.Dequantise(stored, KvFormat.Q8_0, elements, stream: stream);
        Assert.Equal(KvSamples.Restore(expected.AsSpan(34), KvFormat.Q8_0, 1, 31), Devices.Read<float>(elements, stream)[63]);
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (elements, stored) = (devices.Add(new float[64], 2, 32), devices.Add<byte>([.. Enumerable.Repeat((byte)7, 68)], 2, 34));
        void Refused<TException>(string text, Action call) where TException : Exception
        {
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);
            Assert.All(Devices.Read<byte>(stored), value => Assert.Equal(7, value));
        }

        Refused<ArgumentException>("does not match shape [2, 18]", () => KvQuantise.Run(elements, KvFormat.Q4_0, stored));
        Refused<ArgumentOutOfRangeException>("takes no scale", () => KvQuantise.Run(elements, KvFormat.Q8_0, stored, scale: 2));
        Refused<BackendUnavailableException>(
            "are on cuda:0", () => KvQuantise.Run(elements, KvFormat.Q8_0, stored, backend: AuxBackend.Cpu));
        var odd = devices.Add(new byte[128], 2, 64); // 3 bytes from a round address
        Refused<ArgumentException>("not aligned to its elements of 2 bytes", () => KvQuantise.Run(elements, KvFormat.F16, odd));
        var host = stackalloc float[64];
        var said = TensorView.FromPointer(host, DType.Float32, [2, 32], device: stored.Device);
        Refused<ArgumentException>("is not device memory", () => KvQuantise.Run(said, KvFormat.Q8_0, stored));
        devices.CheckMargins();
    }

    private static TensorView View(Devices devices, float[] values, bool isAligned, params ReadOnlySpan<long> shape) =>
        isAligned ? devices.Keep(DeviceBuffer.CopyOf<float>(values)).View(shape) : devices.Add(values, shape);

    // Groups may be anywhere; what has elements of its own, on their boundaries.
    private static TensorView Bytes(Devices devices, byte[] values, int rows, bool isAligned)
    {
        if (isAligned || values.Length / rows % 34 == 0 || values.Length / rows % 18 == 0 || values.Length / rows % 20 == 0)
        {
            return isAligned
                ? devices.Keep(DeviceBuffer.CopyOf<byte>(values)).View(rows, values.Length / rows)
                : devices.Add(values, rows, values.Length / rows);
        }

        var buffer = devices.Keep(DeviceBuffer.Allocate<byte>(values.Length + 4));
        return buffer.ViewAt(4, rows, values.Length / rows);
    }
}
