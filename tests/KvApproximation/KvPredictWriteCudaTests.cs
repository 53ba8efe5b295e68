using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>KvPredictWrite on device memory: the bytes of the CPU backend, with more layers than one launch has.</summary>
public class KvPredictWriteCudaTests
{
    private const int B = 2, Tokens = 6, D = 64, Capacity = 8, Page = 4, Pages = 7;

    public KvPredictWriteCudaTests() => CudaDriver.Require();

    public static TheoryData<KvFormat, bool> Matrix => new MatrixTheoryData<KvFormat, bool>(
        [.. Enum.GetValues<KvFormat>().Where(format => format != KvFormat.Kivi4)], [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void The_bytes_are_those_of_the_Cpu(KvFormat format, bool isPaged) =>
        RequireBytesOfCpu([.. Enumerable.Range(0, 17).Select(i => new Layer(i, format, isPaged))], new());

    [Fact]
    public void Sources_in_bfloat16_turn_in_pairs() => RequireBytesOfCpu(
        [new(1, KvFormat.Q8_0, false) { IsNarrow = true }, new(2, KvFormat.F32, true) { IsNarrow = true }],
        new() { Layout = RotaryLayout.Pairs, RotatedDepth = 32 });

    [Fact]
    public void Keys_may_be_stored_before_rotation_and_on_a_stream()
    {
        using var stream = CudaStream.Create();
        RequireBytesOfCpu([new(1, KvFormat.F32, false)], null, stream);
    }

    [Fact]
    public void No_tokens_are_nothing()
    {
        using var devices = new Devices();
        var cache = devices.Add<float>([.. Enumerable.Repeat(7f, 8 * D)], 1, 1, 8, D);
        var other = devices.Add(new float[8 * D], 1, 1, 8, D);
        var none = devices.Keep(DeviceBuffer.Allocate<float>(D)).ViewAt(0, 0, 1, D);
        KvPredictWrite.Run([new() { Keys = none, Values = none, Cache = new() { Keys = cache, Values = other } }], default);
        Assert.All(Devices.Read<float>(cache), x => Assert.Equal(7, x));
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        float[] sevens = [.. Enumerable.Repeat(7f, 8 * D)];
        var (keys, values) = (devices.Add(sevens, 1, 1, 8, D), devices.Add(sevens, 1, 1, 8, D));
        var source = devices.Add(new float[2 * D], 2, 1, D);
        var places = new KvTokenPlaces { Slots = devices.Add([0, 1], 2) };
        var layer = new KvPredictLayer { Keys = source, Values = source, Cache = new() { Keys = keys, Values = values } };
        Refused<ArgumentException>("layers[0].Cache overlaps layers[1].Cache", [layer, layer]);
        Refused<ArgumentException>("layers[0].KeyBias: float32[32]", [layer with { KeyBias = devices.Add(new float[32], 32) }]);
        Refused<BackendUnavailableException>("are on cuda:0", [layer], AuxBackend.Cpu);
        devices.CheckMargins();

        void Refused<TException>(string text, KvPredictLayer[] layers, AuxBackend backend = AuxBackend.Auto) where TException : Exception
        {
            var error = Assert.Throws<TException>(() => KvPredictWrite.Run(layers, places, backend: backend));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            Assert.Equal(sevens, Devices.Read<float>(keys));
            Assert.Equal(sevens, Devices.Read<float>(values));
        }
    }

    private static void RequireBytesOfCpu(Layer[] layers, RotaryOptions? rotary, CudaStream? stream = null)
    {
        using var arrays = new PinnedArrays();
        var onHost = new Maker(arrays, null);
        KvPredictWrite.Run([.. layers.Select(layer => layer.Views(onHost))], Places(onHost), rotary, 1e-5);
        using var devices = new Devices();
        var onDevice = new Maker(null, devices);
        KvPredictLayer[] views = [.. layers.Select(layer => layer.Views(onDevice))];
        KvPredictWrite.Run(views, Places(onDevice), rotary, 1e-5, stream: stream);
        for (var i = 0; i < layers.Length; i++)
        {
            Assert.Equal(layers[i].KeyBytes, Devices.Read<byte>(views[i].Cache.Keys, stream));
            Assert.Equal(layers[i].ValueBytes, Devices.Read<byte>(views[i].Cache.Values, stream));
            Assert.Contains(layers[i].KeyBytes, value => value != 0);
        }

        devices.CheckMargins();
    }

    private static KvTokenPlaces Places(Maker make) => new()
    {
        Slots = make.Of([0, 3, 7, 1, 2, 5], Tokens),
        Positions = make.Of([0, 300, 4000, 5, 6, 70_000], Tokens),
    };

    /// <summary>Views of arrays, or of what was copied to the device.</summary>
    private sealed class Maker(PinnedArrays? arrays, Devices? devices)
    {
        public TensorView Of<T>(T[] values, params ReadOnlySpan<long> shape) where T : unmanaged =>
            arrays is not null ? arrays.View(values, shape) : devices!.Add(values, shape);

        /// <summary>A cache that is yet empty, on a round address.</summary>
        public TensorView OfBytes(byte[] values, params ReadOnlySpan<long> shape) =>
            arrays is not null ? arrays.View(values, shape) : devices!.Keep(DeviceBuffer.CopyOf<byte>(new byte[values.Length])).View(shape);
    }

    private sealed class Layer
    {
        private readonly int _seed, _heads;
        private readonly KvFormat _format;
        private readonly bool _isPaged;
        private readonly float[] _elements;

        public Layer(int seed, KvFormat format, bool isPaged)
        {
            (_seed, _heads, _format, _isPaged) = (seed, 1 + seed % 3, format, isPaged);
            var count = 2 * (Tokens + 1) * _heads * D + D;
            _elements = [.. Enumerable.Range(0, count).Select(i => MathF.Sin((i + seed) * 0.37f) * (i % 13))];
            KeyBytes = new byte[format.ByteCount((isPaged ? Pages * Page : B * Capacity) * _heads * D)];
            ValueBytes = new byte[KeyBytes.Length];
        }

        public bool IsNarrow { get; init; }

        public byte[] KeyBytes { get; }

        public byte[] ValueBytes { get; }

        public KvPredictLayer Views(Maker make)
        {
            long[] shape = _isPaged ? [Pages, _heads, Page, _format.ByteCount(D)] : [B, _heads, Capacity, _format.ByteCount(D)];
            var (rows, bias) = (Tokens * _heads * D, _heads * D);
            var scales = _format == KvFormat.Fp8E4M3 ? make.Of([0.07f], 1) : default;
            return new()
            {
                Keys = Rows(make, _elements[..rows]),
                Values = Rows(make, _elements[rows..(2 * rows)]),
                KeyBias = _seed % 4 == 3 ? default : make.Of(_elements[(2 * rows)..(2 * rows + bias)], bias),
                ValueBias = make.Of(_elements[(2 * rows + bias)..(2 * rows + 2 * bias)], bias),
                KeyNorm = _seed % 2 == 0 ? default : make.Of(_elements[^D..], D),
                Cache = new()
                {
                    Keys = make.OfBytes(KeyBytes, shape),
                    Values = make.OfBytes(ValueBytes, shape),
                    KeyFormat = _format,
                    ValueFormat = _format,
                    KeyScales = scales,
                    ValueScales = scales,
                    PageOffsets = _isPaged ? make.Of([0, 2, 4], 3) : default,
                    Pages = _isPaged ? make.Of([6, 1, 3, 0], 4) : default,
                },
            };
        }

        private TensorView Rows(Maker make, float[] elements) => IsNarrow
            ? make.Of([.. elements.Select(x => (BFloat16)x)], Tokens, _heads, D)
            : make.Of(elements, Tokens, _heads, D);
    }
}
