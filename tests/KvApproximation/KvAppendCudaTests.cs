using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>KvAppend on device memory: the bytes of the CPU backend, contiguous and in pages.</summary>
public class KvAppendCudaTests
{
    private const int B = 2, Tokens = 6, Hq = 4, Hkv = 2, D = 64, Page = 4, Pages = 7;

    public KvAppendCudaTests() => CudaDriver.Require();

    public static TheoryData<KvFormat, bool> Matrix => new MatrixTheoryData<KvFormat, bool>(
        [.. Enum.GetValues<KvFormat>().Where(format => format != KvFormat.Kivi4)], [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void The_bytes_are_those_of_the_Cpu(KvFormat format, bool isPaged)
    {
        var x = KvSamples.Elements(Tokens * (Hq + 2 * Hkv) * D, seed: 7);
        for (var i = 0; i < x.Length; i++)
            x[i] = MathF.Sin(i * 0.37f) * (i % 13);
        var bytes = new byte[format.ByteCount((isPaged ? Pages : B) * Hkv * (isPaged ? Page : 8) * D)];
        foreach (var layout in Enum.GetValues<RotaryLayout>())
        {
            var (keys, values, rotated) = ((byte[])bytes.Clone(), (byte[])bytes.Clone(), new float[Tokens * Hq * D]);
            using var arrays = new PinnedArrays();
            Append(arrays.View, arrays.View, arrays.View, x, keys, values, rotated, format, isPaged, layout);

            using var devices = new Devices();
            var (k, v, q) = ((TensorView)default, (TensorView)default, (TensorView)default);
            Append(
                (floats, shape) => Remember(devices.Add(floats, shape), floats, rotated, ref q), (ints, shape) => devices.Add(ints, shape),
                (stored, shape) =>
                {
                    var view = devices.Keep(DeviceBuffer.CopyOf<byte>(stored.Select(_ => (byte)0).ToArray())).View(shape);
                    (k, v) = ReferenceEquals(stored, keys) ? (view, v) : (k, view);
                    return view;
                }, x, keys, values, rotated, format, isPaged, layout);

            Assert.Equal(keys, Devices.Read<byte>(k));
            Assert.Equal(values, Devices.Read<byte>(v));
            Assert.Equal(Devices.Bits(rotated), Devices.Bits(Devices.Read<float>(q)));
            devices.CheckMargins();
        }

        static TensorView Remember(TensorView view, float[] floats, float[] wanted, ref TensorView found)
        {
            if (ReferenceEquals(floats, wanted))
                found = view;
            return view;
        }
    }

    private delegate TensorView Make<T>(T[] values, params ReadOnlySpan<long> shape);

    private static void Append(
        Make<float> floats, Make<int> ints, Make<byte> bytes, float[] x, byte[] keys, byte[] values, float[] rotated, KvFormat format,
        bool isPaged, RotaryLayout layout)
    {
        long[] shape = isPaged ? [Pages, Hkv, Page, format.ByteCount(D)] : [B, Hkv, 8, format.ByteCount(D)];
        var scales = format == KvFormat.Fp8E4M3 ? floats([0.07f, 0.05f], Hkv) : default;
        var norm = floats([.. Enumerable.Range(0, D).Select(i => 1 + i / 100f)], D);
        KvAppend.Run(
            new()
            {
                Query = floats(x[..(Tokens * Hq * D)], Tokens, Hq, D),
                RotatedQuery = floats(rotated, Tokens, Hq, D),
                Keys = floats(x[(Tokens * Hq * D)..(Tokens * (Hq + Hkv) * D)], Tokens, Hkv, D),
                Values = floats(x[(Tokens * (Hq + Hkv) * D)..], Tokens, Hkv, D),
                Slots = ints([0, 3, 7, 1, 2, 5], Tokens),
                Positions = ints([0, 300, 4000, 5, 6, 70_000], Tokens),
                QueryNorm = norm,
                KeyNorm = norm,
            },
            new()
            {
                Keys = bytes(keys, shape),
                Values = bytes(values, shape),
                KeyFormat = format,
                ValueFormat = format,
                KeyScales = scales,
                ValueScales = scales,
                PageOffsets = isPaged ? ints([0, 2, 4], 3) : default,
                Pages = isPaged ? ints([6, 1, 3, 0], 4) : default,
            },
            new() { Layout = layout }, 1e-5);
    }
}
