using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>KeyRerotate on device memory against the CPU backend, whose tests hold it to the definition.</summary>
public class KeyRerotateCudaTests
{
    private static readonly (RotaryOptions Options, int Depth)[] Models =
    [
        (new(), 2), (new() { Base = 1e6 }, 128), (new() { RotatedDepth = 10 }, 17), (new() { Layout = RotaryLayout.Pairs }, 34),
        (new() { Sections = [16, 24, 24] }, 128), (new() { Sections = [1, 0, 4], Layout = RotaryLayout.Pairs, RotatedDepth = 10 }, 12),
        (new() { Frequencies = [1, 0.5, 0, 0.25, -1, 3e-4, 2, 1e-3, 0.125] }, 18), (new(), 256),
    ];

    public KeyRerotateCudaTests() => CudaDriver.Require();

    [Fact]
    public void Keys_are_the_Cpus()
    {
        foreach (var (options, depth) in Models)
        {
            foreach (var (heads, tokens) in ((int, int)[])[(1, 1), (3, 7), (0, 4), (2, 0), (6, 19)])
            {
                Check<float>(options, heads, tokens, depth, Tolerances.KeyRerotateAbsolute);
                Check<BFloat16>(options, heads, tokens, depth, 1 / 128.0);
                Check<Half>(options, heads, tokens, depth, 1 / 1024.0);
            }
        }
    }

    [Fact]
    public void Angles_of_any_size_are_reduced() => Gen.Select(Gen.Int[-1_000_000_000, 1_000_000_000], Gen.Double[-2, 2]).Sample(
        (difference, frequency) =>
        {
            using var devices = new Devices();
            var keys = devices.Add(new float[] { 1, 0 }, 1, 1, 2);
            KeyRerotate.Run([keys], devices.Add([difference], 1, 1), new() { Frequencies = [frequency] });
            var (turned, angle) = (Devices.Read<float>(keys), difference * frequency);
            return difference == 0 || (Math.Abs(turned[0] - Math.Cos(angle)) < 1e-7 && Math.Abs(turned[1] - Math.Sin(angle)) < 1e-7);
        },
        iter: 200);

    [Fact]
    public void A_key_that_stays_keeps_its_bits_and_angles_beyond_the_range_give_NaN()
    {
        using var devices = new Devices();
        float[] keys = [-0f, float.NaN, float.PositiveInfinity, float.Epsilon, 1, 0, 7, float.NaN, 1, 0, 7, 8];
        var view = devices.Add(keys, 1, 3, 4);
        KeyRerotate.Run([view], devices.Add([0, 1, int.MaxValue], 1, 3), new() { RotatedDepth = 2, Frequencies = [1.5] });
        var actual = Devices.Read<float>(view);
        Assert.Equal(Devices.Bits(keys[..4]), Devices.Bits(actual[..4]));
        Assert.Equal(Math.Cos(1.5), actual[4], 1e-7);
        Assert.Equal(Math.Sin(1.5), actual[5], 1e-7);
        Assert.Equal([7, float.NaN, float.NaN, float.NaN, 7, 8], actual[6..]);
    }

    [Fact]
    public unsafe void Many_layers_are_views_into_caches_with_room_for_more_and_work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        List<(DeviceBuffer<float> Cache, float[] Before)> caches = [];
        for (var layer = 0; layer < 60; layer++)
        {
            var values = TokenMergeTests.Values(2 * 9 * 6, layer);
            caches.Add((devices.Keep(DeviceBuffer.CopyOf<float>(values)), values));
        }

        int[] differences = [0, -1, 2, -3, 100];
        KeyRerotate.Run(
            [.. caches.Select(cache => View(cache.Cache))], devices.Add(differences, 1, 5), new(), stream: stream);
        stream.Synchronize();
        foreach (var (cache, before) in caches)
        {
            for (var head = 0; head < 2; head++)
                KeyRerotate.Run(before.AsSpan(head * 54, 30), 6, differences, new());
            var actual = cache.ToArray();
            for (var i = 0; i < before.Length; i++)
                Assert.Equal(before[i], actual[i], Tolerances.KeyRerotateAbsolute);
        }

        static TensorView View(DeviceBuffer<float> cache) =>
            TensorView.FromPointer((void*)cache.Address, DType.Float32, [2, 5, 6], [54, 6, 1], cache.Device, cache);
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (keys, moved) = (devices.Add(new float[] { 7, 7, 7, 7 }, 1, 2, 2), devices.Add([1, 2], 1, 2));
        void Refused<TException>(string message, Action action) where TException : Exception
        {
            Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
            Assert.Equal([7, 7, 7, 7], Devices.Read<float>(keys));
        }

        Refused<ArgumentException>("keys[1] overlaps keys[0]", () => KeyRerotate.Run([keys, keys], moved, new()));
        float* host = stackalloc float[4];
        var said = TensorView.FromPointer(host, DType.Float32, [1, 2, 2], device: keys.Device);
        Refused<ArgumentException>("layers[1]: 0x", () => KeyRerotate.Run([keys, said], moved, new()));
        var large = devices.Add(new float[2 * 300], 1, 2, 300);
        Refused<ArgumentException>("on a device there are at most 256", () => KeyRerotate.Run([large], moved, new()));
        Refused<BackendUnavailableException>("the tensors are on cuda:0", () => KeyRerotate.Run([keys], moved, new(), AuxBackend.Cpu));
        Refused<BackendUnavailableException>("the tensors are on cpu",
            () => KeyRerotate.Run(new float[4].AsSpan(), 4, [1], new(), AuxBackend.Cuda));
        devices.CheckMargins();
    }

    private static void Check<T>(RotaryOptions options, int heads, int tokens, int depth, double tolerance) where T : unmanaged
    {
        var random = new Random(depth);
        var rows = Math.Max(1, options.Sections.Count);
        int[] differences = [.. Enumerable.Range(0, rows * tokens).Select(_ => random.Next(3) == 0 ? 0 : random.Next(-4000, 300))];
        var (keys, _) = RandomScores.As<T>(TokenMergeTests.Values(heads * tokens * depth, depth));
        using var devices = new Devices();
        var actual = devices.Add((T[])keys.Clone(), heads, tokens, depth);
        KeyRerotate.Run([actual], devices.Add(differences, rows, tokens), options);
        KeyRerotate.Run(keys.AsSpan(), depth, differences, options);
        var (expected, turned) = (RandomScores.Widen(keys), RandomScores.Widen(Devices.Read<T>(actual)));
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], turned[i], tolerance);
        devices.CheckMargins();
    }
}
