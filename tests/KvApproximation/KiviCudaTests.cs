using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>Caches in KIVI-4 on device memory: the bytes and rings of the CPU, and attention over them.</summary>
public class KiviCudaTests
{
    private const int B = 2, Each = 75, Hq = 4, Hkv = 2, D = 64, Capacity = 128, Window = 5, Ring = Window + 32;

    public KiviCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(0)]
    [InlineData(32)]
    public void Appending_gives_the_bytes_and_rings_of_the_Cpu_in_bulk_as_in_parts(int page)
    {
        using var arrays = new PinnedArrays();
        var host = new Stored(page);
        host.Append(new Maker(arrays, null), 0, Each);
        Assert.Contains(host.Keys, value => value != 0);
        foreach (var calls in (int[][])[[Each], [1, 36, 32, 6], [.. Enumerable.Repeat(1, Each)]])
        {
            using var devices = new Devices();
            var make = new Maker(null, devices);
            var device = new Stored(page);
            var at = 0;
            foreach (var count in calls)
            {
                device.Append(make, at, count);
                at += count;
            }

            device.Read();
            Assert.Equal(host.Keys, device.Keys);
            Assert.Equal(host.Values, device.Values);
            Assert.Equal(Devices.Bits(host.KeyRing), Devices.Bits(device.KeyRing));
            Assert.Equal(Devices.Bits(host.ValueRing), Devices.Bits(device.ValueRing));
            devices.CheckMargins();
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(32)]
    public void Predictions_pass_through_the_ring_too(int page)
    {
        using var arrays = new PinnedArrays();
        using var devices = new Devices();
        var (host, device) = (new Stored(page), new Stored(page));
        host.Predict(new Maker(arrays, null));
        device.Predict(new Maker(null, devices));
        device.Read();
        Assert.Equal(host.Keys, device.Keys);
        Assert.Equal(host.Values, device.Values);
        Assert.Equal(Devices.Bits(host.KeyRing), Devices.Bits(device.KeyRing));
        Assert.Equal(Devices.Bits(host.ValueRing), Devices.Bits(device.ValueRing));
        Assert.Contains(host.Keys, value => value != 0);
        devices.CheckMargins();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(32)]
    public void Attention_agrees_with_the_Cpu_and_repeats(int page)
    {
        using var arrays = new PinnedArrays();
        using var devices = new Devices();
        var (onHost, onDevice) = (new Maker(arrays, null), new Maker(null, devices));
        var (host, device) = (new Stored(page), new Stored(page));
        host.Append(onHost, 0, Each);
        device.Append(onDevice, 0, Each);
        foreach (var lengths in (int[][])[[Each, Each], [Each, 70]]) // 70: a ring that has moved on, alike in both
        {
            var expected = new float[B * Hq * D];
            KvDecodeAttention.Run(
                onHost.Of(Numbers(expected.Length, 9), B, Hq, D), host.Views(onHost), onHost.Of(lengths, B),
                onHost.Of(expected, B, Hq, D));
            var (query, filled) = (onDevice.Of(Numbers(expected.Length, 9), B, Hq, D), onDevice.Of(lengths, B));
            var (cache, output) = (device.Views(onDevice), onDevice.Of(new float[expected.Length], B, Hq, D));
            var bytes = KvDecodeAttention.WorkspaceBytes(query, cache, filled, output);
            var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes)).View(bytes);
            KvDecodeAttention.Run(query, cache, filled, output, workspace: workspace);
            var first = Devices.Read<float>(output);
            for (var i = 0; i < expected.Length; i++)
                Assert.True(Math.Abs(expected[i] - first[i]) <= 3e-6, $"{i}: {first[i]:R}, not {expected[i]:R}");
            KvDecodeAttention.Run(query, cache, filled, output, workspace: workspace);
            Assert.Equal(Devices.Bits(first), Devices.Bits(Devices.Read<float>(output)));
        }

        devices.CheckMargins();
    }

    private static float[] Numbers(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 4 - 2))];
    }

    /// <summary>Views of arrays where they are, or of copies in device memory.</summary>
    private sealed class Maker(PinnedArrays? arrays, Devices? devices)
    {
        public TensorView Of<T>(T[] values, params ReadOnlySpan<long> shape) where T : unmanaged =>
            devices?.Keep(DeviceBuffer.CopyOf<T>(values)).View(shape) ?? arrays!.View(values, shape);
    }

    /// <summary>A cache, contiguous or in pages of so many positions, and tokens for it.</summary>
    private sealed class Stored(int page)
    {
        private static readonly float[] _keys = Numbers(B * Each * Hkv * D, 1), _values = Numbers(B * Each * Hkv * D, 2);

        private KvCacheViews? _views;

        public byte[] Keys { get; private set; } = new byte[B * Hkv * Capacity * D / 32 * 20];

        public byte[] Values { get; private set; } = new byte[B * Hkv * Capacity * D / 32 * 20];

        public float[] KeyRing { get; private set; } = new float[B * Hkv * Ring * D];

        public float[] ValueRing { get; private set; } = new float[B * Hkv * Ring * D];

        public KvCacheViews Views(Maker make)
        {
            if (_views is { } made)
                return made;
            long[] shape = page == 0 ? [B, Hkv, Capacity, D / 32 * 20] : [B * Capacity / page, Hkv, page, D / 32 * 20];
            var views = new KvCacheViews
            {
                Keys = make.Of(Keys, shape),
                Values = make.Of(Values, shape),
                KeyFormat = KvFormat.Kivi4,
                ValueFormat = KvFormat.Kivi4,
                KeyResidual = make.Of(KeyRing, B, Hkv, Ring, D),
                ValueResidual = make.Of(ValueRing, B, Hkv, Ring, D),
                PageOffsets = page == 0 ? default : make.Of([0, 4, 8], 3),
                Pages = page == 0 ? default : make.Of([7, 1, 3, 0, 2, 6, 5, 4], 8),
            };
            _views = views;
            return views;
        }

        public void Append(Maker make, int from, int count) => KvAppend.Run(
            new()
            {
                Keys = make.Of(Some(_keys, from, count), B * count, Hkv, D),
                Values = make.Of(Some(_values, from, count), B * count, Hkv, D),
                Slots = make.Of(Slots(from, count), B * count),
                KeyNorm = make.Of(Numbers(D, 3), D),
            }, Views(make), new(), 1e-5);

        public void Predict(Maker make) => KvPredictWrite.Run(
            [
                new()
                {
                    Keys = make.Of(_keys, B * Each, Hkv, D),
                    Values = make.Of(_values, B * Each, Hkv, D),
                    KeyBias = make.Of(Numbers(Hkv * D, 4), Hkv * D),
                    Cache = Views(make),
                },
            ], new() { Slots = make.Of(Slots(0, Each), B * Each) }, new(), 1e-5);

        /// <summary>What is in device memory.</summary>
        public void Read()
        {
            var views = _views!.Value;
            (Keys, Values) = (Devices.Read<byte>(views.Keys), Devices.Read<byte>(views.Values));
            (KeyRing, ValueRing) = (Devices.Read<float>(views.KeyResidual), Devices.Read<float>(views.ValueResidual));
        }

        private static int[] Slots(int from, int count) => [.. Enumerable.Range(0, B * count).Select(token => from + token % count)];

        private static float[] Some(float[] rows, int from, int count) =>
        [
            .. Enumerable.Range(0, B).SelectMany(b => rows.AsSpan((b * Each + from) * Hkv * D, count * Hkv * D).ToArray()),
        ];
    }
}
