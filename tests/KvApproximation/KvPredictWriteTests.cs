using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

public sealed class KvPredictWriteTests : IDisposable
{
    private const int Tokens = 6, Dim = 32, Capacity = 8;

    private readonly PinnedArrays _pinned = new();

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Layers_of_several_head_counts_get_bias_norm_and_rotation(Runner runner)
    {
        Layer[] layers = [new(this, 1, 1, withNorm: true), new(this, 3, 2, withNorm: false), new(this, 2, 3, withNorm: true)];
        var rotary = new RotaryOptions();
        runner.Run(backend => KvPredictWrite.Run([.. layers.Select(layer => layer.Views)], Places(), rotary, 1e-5, backend));
        foreach (var layer in layers)
        {
            for (var (token, head) = (0, 0); token < Tokens; (token, head) = head + 1 < layer.Heads ? (token, head + 1) : (token + 1, 0))
            {
                var slot = token % 3 + 2;
                var at = (token * layer.Heads + head) * Dim;
                var (key, value) = (new float[Dim], new double[Dim]);
                for (var i = 0; i < Dim; i++)
                {
                    key[i] = layer.Keys[at + i] + layer.KeyBias[head * Dim + i];
                    value[i] = layer.Values[at + i] + (double)layer.ValueBias[head * Dim + i];
                }

                var expected = AppendedTokens.Expect(key, layer.Norm, 1e-5, slot, rotary);
                RequireClose(expected, layer.Stored(layer.KeyBytes, token / 3, head, slot));
                RequireClose(value, layer.Stored(layer.ValueBytes, token / 3, head, slot));
            }

            Assert.All(Enumerable.Range(0, 2 * layer.Heads), row => Assert.All(
                layer.Stored(layer.KeyBytes, row / layer.Heads, row % layer.Heads, 0).ToArray(), x => Assert.Equal(0, x)));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Blocks_of_rows_and_layers_one_by_one_give_the_bytes_of_one_call(Runner runner)
    {
        Layer[] layers = [new(this, 1, 1, withNorm: true, KvFormat.Q8_0), new(this, 3, 2, withNorm: true, KvFormat.Q8_0)];
        runner.Run(backend => KvPredictWrite.Run([.. layers.Select(layer => layer.Views)], Places(), new(), backend: backend));
        byte[][] expected = [.. layers.SelectMany(layer => (byte[][])[[.. layer.KeyBytes], [.. layer.ValueBytes]])];
        foreach (var layer in layers)
        {
            layer.KeyBytes.AsSpan().Clear();
            layer.ValueBytes.AsSpan().Clear();
            for (var token = 0; token < Tokens; token += 2)
            {
                var block = layer.Views with { Keys = layer.Rows(layer.Keys, token, 2), Values = layer.Rows(layer.Values, token, 2) };
                var places = new KvTokenPlaces
                {
                    Sequences = _pinned.View([token / 3, (token + 1) / 3], 2),
                    Slots = _pinned.View([token % 3 + 2, (token + 1) % 3 + 2], 2),
                };
                runner.Run(backend => KvPredictWrite.Run([block], places, new(), backend: backend));
            }
        }

        Assert.Equal(expected, layers.SelectMany(layer => (byte[][])[layer.KeyBytes, layer.ValueBytes]));
    }

    [Fact]
    public void No_layers_are_nothing() => KvPredictWrite.Run([], default);

    [Fact]
    public void What_does_not_fit_is_refused_and_nothing_is_written()
    {
        Layer[] layers = [new(this, 1, 1, withNorm: true), new(this, 2, 2, withNorm: false)];
        var (first, second) = (layers[0].Views, layers[1].Views);
        Refused<KvCapacityException>(
            "places.Slots[1] is 8, but sequence 0 has room for 8 positions", [first, second], Places([2, 8, 9, 1, 2, 3]));
        Refused<ArgumentException>("places.Slots[1] is 2, but 2 was before it", [first, second], Places([2, 2, 3, 1, 2, 3]));
        Refused<ArgumentOutOfRangeException>("places.Slots[0] is negative", [first, second], Places([-1, 2, 3, 1, 2, 3]));
        Refused<ArgumentException>("places.Slots: missing", [first], default);
        Refused<ArgumentException>(
            "layers[1].Keys: float32[6, 2, 32] on cpu of 1 sequences does not match layers[0].Keys: float32[6, 1, 32] on cpu of 2",
            [first, second with { Cache = Cache(new float[512], 2) }], Places());
        Refused<ArgumentException>(
            "layers[1].KeyBias: float32[32] on cpu does not match shape [64]", [first, second with { KeyBias = first.KeyBias }], Places());
        Refused<ArgumentException>(
            "layers[1].Values: float32[6, 1, 32] on cpu does not match shape [6, 2, 32]", [first, second with { Values = first.Values }],
            Places());
        Refused<ArgumentException>(
            "layers[1].Cache.Keys: uint8[2, 1, 8, 128] on cpu does not match 2 heads", [first, second with { Cache = first.Cache }],
            Places());
        Refused<ArgumentException>("layers[0].Cache overlaps layers[1].Cache in memory", [first, first], Places());
        Refused<ArgumentException>(
            "layers[0].Cache overlaps what layers[1] reads", [
                first with { Cache = Cache(layers[1].Keys, 1) }, second with { Cache = Cache(new float[512], 2) }],
            Places());
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => KvPredictWrite.Run([first], Places(), normEpsilon: -1));
        Assert.Contains("epsilon", error.Message, StringComparison.Ordinal);

        KvCacheViews Cache(float[] keys, int heads) => new()
        {
            Keys = _pinned.View(keys, DType.Float32, 0, [1, heads, 8, Dim]),
            Values = _pinned.View(new float[512], DType.Float32, 0, [1, heads, 8, Dim]),
        };

        void Refused<TException>(string text, KvPredictLayer[] views, KvTokenPlaces places) where TException : ArgumentException
        {
            var error = Assert.Throws<TException>(() => KvPredictWrite.Run(views, places));
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
            foreach (var layer in layers)
            {
                Assert.True(layer.KeyBytes.AsSpan().IndexOfAnyExcept((byte)0) < 0);
                Assert.True(layer.ValueBytes.AsSpan().IndexOfAnyExcept((byte)0) < 0);
            }
        }
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_without_a_kernel_says_so(AuxBackend backend)
    {
        var layer = new Layer(this, 1, 1, withNorm: false).Views;
        Assert.Throws<BackendUnavailableException>(() => KvPredictWrite.Run([layer], Places(), backend: backend));
        Assert.False(KvPredictWrite.IsSupported(backend, out var reason));
        Assert.NotEmpty(reason);
    }

    public void Dispose() => _pinned.Dispose();

    private KvTokenPlaces Places(int[]? slots = null) => new() { Slots = _pinned.View(slots ?? [2, 3, 4, 2, 3, 4], Tokens) };

    private static void RequireClose(double[] expected, ReadOnlySpan<float> actual)
    {
        var greatest = expected.Max(Math.Abs);
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], actual[i], Tolerances.KvPredictWriteRelative * greatest);
    }

    /// <summary>A layer of two sequences of three tokens.</summary>
    private sealed class Layer
    {
        private readonly KvPredictWriteTests _test;
        private readonly KvFormat _format;

        public Layer(KvPredictWriteTests test, int heads, int seed, bool withNorm, KvFormat format = KvFormat.F32)
        {
            (_test, _format, Heads) = (test, format, heads);
            var random = new Random(seed);
            (Keys, Values) = (Uniform(Tokens * heads), Uniform(Tokens * heads));
            (KeyBias, ValueBias, Norm) = (Uniform(heads), Uniform(heads), withNorm ? Uniform(1) : null);
            KeyBytes = new byte[format.ByteCount(2L * heads * Capacity * Dim)];
            ValueBytes = new byte[KeyBytes.Length];

            float[] Uniform(int rows) => [.. Enumerable.Range(0, rows * Dim).Select(_ => random.NextSingle() * 2 - 1)];
        }

        public int Heads { get; }

        public float[] Keys { get; }

        public float[] Values { get; }

        public float[] KeyBias { get; }

        public float[] ValueBias { get; }

        public float[]? Norm { get; }

        public byte[] KeyBytes { get; }

        public byte[] ValueBytes { get; }

        public KvPredictLayer Views => new()
        {
            Keys = Rows(Keys, 0, Tokens),
            Values = Rows(Values, 0, Tokens),
            KeyBias = _test._pinned.View(KeyBias, Heads * Dim),
            ValueBias = _test._pinned.View(ValueBias, Heads * Dim),
            KeyNorm = Norm is null ? default : _test._pinned.View(Norm, Dim),
            Cache = new()
            {
                Keys = _test._pinned.View(KeyBytes, 2, Heads, Capacity, _format.ByteCount(Dim)),
                Values = _test._pinned.View(ValueBytes, 2, Heads, Capacity, _format.ByteCount(Dim)),
                KeyFormat = _format,
                ValueFormat = _format,
            },
        };

        public TensorView Rows(float[] elements, int from, int count) =>
            _test._pinned.View(elements, DType.Float32, from * Heads * Dim, [count, Heads, Dim]);

        public ReadOnlySpan<float> Stored(byte[] bytes, int sequence, int head, int slot) =>
            MemoryMarshal.Cast<byte, float>(bytes.AsSpan()).Slice(((sequence * Heads + head) * Capacity + slot) * Dim, Dim);
    }
}
