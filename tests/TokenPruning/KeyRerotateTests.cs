using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class KeyRerotateTests
{
    private static readonly (RotaryOptions Options, int Depth)[] Models =
    [
        (new(), 2), (new() { Base = 1e6 }, 128), (new() { RotatedDepth = 10 }, 17), (new() { Layout = RotaryLayout.Pairs }, 34),
        (new() { Sections = [16, 24, 24] }, 128), (new() { Sections = [1, 0, 4], Layout = RotaryLayout.Pairs, RotatedDepth = 10 }, 12),
        (new() { Frequencies = [1, 0.5, 0, 0.25, -1, 3e-4, 2, 1e-3, 0.125] }, 18),
    ];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Keys_are_those_of_the_new_positions(Runner runner)
    {
        foreach (var (options, depth) in Models)
        {
            foreach (var (heads, tokens) in ((int, int)[])[(1, 1), (3, 7), (0, 4), (2, 0)])
            {
                Check<float>(runner, options, heads, tokens, depth, rounding: 0);
                Check<BFloat16>(runner, options, heads, tokens, depth, rounding: 1 / 64.0); // both the old and the new ones are rounded
                Check<Half>(runner, options, heads, tokens, depth, rounding: 1 / 512.0);
            }
        }
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        const int Tokens = 500, Depth = 84;
        int[] differences = [.. Enumerable.Range(0, Tokens).Select(i => -i / 3)];
        float[]? first = null;
        foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
        {
            var keys = TokenMergeTests.Values(6 * Tokens * Depth, 1);
            runner.Run(backend => KeyRerotate.Run(keys.AsSpan(), Depth, differences, new() { RotatedDepth = 78 }, backend));
            first ??= keys;
            Assert.Equal(first, keys);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_key_that_stays_keeps_its_bits_and_what_is_not_rotated_is_not_read(Runner runner)
    {
        float[] keys = [-0f, float.NaN, float.PositiveInfinity, float.Epsilon, 1, 0, 7, float.NaN], before = (float[])keys.Clone();
        runner.Run(backend => KeyRerotate.Run(keys.AsSpan(), 4, [0, 1], new() { RotatedDepth = 2 }, backend));
        Assert.Equal(before[..4].Select(BitConverter.SingleToInt32Bits), keys[..4].Select(BitConverter.SingleToInt32Bits));
        Assert.Equal(Math.Cos(1), keys[4], 1e-7);
        Assert.Equal(Math.Sin(1), keys[5], 1e-7);
        Assert.Equal([7, float.NaN], keys[6..]);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Layers_are_views_into_caches_with_room_for_more(Runner runner)
    {
        using var scene = new Scene([0], [0], [], null);
        var (cache, narrow) = (scene.Tensor(DType.Float32, [2, 3, 9, 6], 1), scene.Tensor(DType.Float16, [1, 8, 4, 6], 2));
        TensorView[] layers = [Scene.Narrow(cache, 2, 5), Scene.Narrow(narrow, 1, 5)];
        layers[1] = Transposed(layers[1]); // memory [1, tokens, heads, depth]
        int[] differences = [0, -1, 2, -3, 100];
        var view = scene.Tensor(DType.Int32, [1, 5], 0);
        unsafe
        {
            differences.CopyTo(new Span<int>((void*)view.Address, 5));
        }

        float[] all = Scene.Read(cache), first = Scene.Read(layers[0]), second = Scene.Read(layers[1]);
        runner.Run(backend => KeyRerotate.Run(layers, view, new(), backend));
        runner.Run(backend =>
        {
            KeyRerotate.Run(first.AsSpan(), 6, differences, new(), backend);
            KeyRerotate.Run(second.AsSpan(), 6, differences, new(), backend);
        });
        Assert.Equal(first, Scene.Read(layers[0]));
        Assert.Equal(second.Select(value => (float)(Half)value), Scene.Read(layers[1]));
        var after = Scene.Read(cache);
        for (var i = 0; i < all.Length; i++)
        {
            if (i / 6 % 9 >= 5)
                Assert.Equal(all[i], after[i]); // the room behind the tokens
        }

        static unsafe TensorView Transposed(TensorView view)
        {
            var strides = view.Strides();
            return TensorView.FromPointer(
                (void*)view.Address, view.DType, [view.Shape[0], view.Shape[2], view.Shape[1], view.Shape[3]],
                [strides[0], strides[2], strides[1], strides[3]]);
        }
    }

    [Fact]
    public void A_turn_and_its_opposite_are_the_identity_and_lengths_do_not_change() => Gen
        .Select(Gen.Int[1, 6], Gen.Int[1, 40], Gen.Int[-9999, 9999], Gen.Bool)
        .Sample((tokens, half, difference, pairs) =>
        {
            var options = new RotaryOptions { Layout = pairs ? RotaryLayout.Pairs : RotaryLayout.Halves };
            var keys = TokenMergeTests.Values(tokens * 2 * half, half);
            var (before, differences) = ((float[])keys.Clone(), Enumerable.Repeat(difference, tokens).ToArray());
            KeyRerotate.Run(keys.AsSpan(), 2 * half, differences, options);
            var turned = keys.Sum(value => (double)value * value);
            KeyRerotate.Run(keys.AsSpan(), 2 * half, [.. differences.Select(d => -d)], options);
            return Math.Abs(turned - before.Sum(value => (double)value * value)) < 1e-5 * keys.Length
                && keys.Zip(before).All(pair => Math.Abs(pair.First - pair.Second) < 1e-6);
        });

    [Fact]
    public void Options_sizes_and_memory_are_checked()
    {
        using var scene = new Scene([0], [0], [], null);
        var (keys, moved) = (scene.Tensor(DType.Float32, [2, 3, 6], -1), scene.Tensor(DType.Int32, [1, 3], 1));
        void Run(RotaryOptions options, params TensorView[] layers) => KeyRerotate.Run(layers, moved, options);
        RotaryOptions plain = new();

        Refused<ArgumentException>("options: 7 of 6 elements are rotated", () => Run(new() { RotatedDepth = 7 }, keys));
        Refused<ArgumentException>("options: 3 of 6", () => Run(new() { RotatedDepth = 3 }, keys));
        Refused<ArgumentException>("options: -2 of 6", () => Run(new() { RotatedDepth = -2 }, keys));
        foreach (var bad in (double[])[1, -1, double.NaN, double.PositiveInfinity])
            Refused<ArgumentException>("options.Base", () => Run(new() { Base = bad }, keys));
        Refused<ArgumentException>("options.Layout", () => Run(new() { Layout = (RotaryLayout)5 }, keys));
        Refused<ArgumentException>("options.Frequencies: 2 numbers, but 3 pairs", () => Run(new() { Frequencies = [1, 2] }, keys));
        Refused<ArgumentException>("options.Frequencies: one is", () => Run(new() { Frequencies = [1, 2, double.NaN] }, keys));
        Refused<ArgumentException>("differences: int32[1, 3] on cpu does not match shape [2, 3]",
            () => Run(new() { Sections = [1, 2] }, keys));
        Refused<ArgumentException>("options.Sections: [2] are not 3 pairs", () => Run(new() { Sections = [2] }, keys));
        Refused<ArgumentException>("options.Sections: [4, -1]", () => KeyRerotate.Run(
            [keys], scene.Tensor(DType.Int32, [2, 3], 1), new() { Sections = [4, -1] }));
        Refused<ArgumentNullException>("options", () => KeyRerotate.Run([keys], moved, null!));
        Refused<ArgumentException>("differences: int32[3] on cpu is not of rank 2", () => KeyRerotate.Run(
            [keys], scene.Integers(1, 2, 3), plain));
        Refused<ArgumentException>("differences: float32[2, 3, 6] on cpu is not of rank 2", () => KeyRerotate.Run([keys], keys, plain));
        Refused<ArgumentException>("keys[1]: float32[3, 6] on cpu is not of rank 3 or 4",
            () => Run(plain, keys, scene.Tensor(DType.Float32, [3, 6], -1)));
        Refused<ArgumentException>("keys[1]: int32[2, 3, 6]", () => Run(plain, keys, scene.Tensor(DType.Int32, [2, 3, 6], -1)));
        Refused<ArgumentException>("has 4 tokens, but there are differences for 3",
            () => Run(plain, keys, scene.Tensor(DType.Float32, [2, 4, 6], -1)));
        Refused<ArgumentException>("is not of the depth of keys[0], 6", () => Run(plain, keys, scene.Tensor(DType.Float32, [2, 3, 8], -1)));
        Refused<ArgumentException>("keys[1] overlaps keys[0]", () => Run(plain, keys, keys));
        unsafe
        {
            var address = (void*)scene.Tensor(DType.Float32, [2, 3, 6], -1).Address;
            Refused<ArgumentException>("must lie side by side",
                () => Run(plain, keys, TensorView.FromPointer(address, DType.Float32, [2, 3, 6], [18, 1, 3])));
            Refused<ArgumentException>("has elements that share memory",
                () => Run(plain, keys, TensorView.FromPointer(address, DType.Float32, [2, 3, 6], [0, 6, 1])));
            Refused<ArgumentException>("keys[1]: float32[2, 3, 6] on cuda:0",
                () => Run(plain, keys, TensorView.FromPointer(address, DType.Float32, [2, 3, 6], device: new(AuxDeviceKind.Cuda))));
        }

        var span = new float[12];
        Refused<ArgumentOutOfRangeException>("depth", () => KeyRerotate.Run(span.AsSpan(), 0, [1], plain));
        Refused<ArgumentException>("keys: 12 elements", () => KeyRerotate.Run(span.AsSpan(), 8, [1], plain));
        Refused<ArgumentException>("differences: 3 elements are not 2 rows",
            () => KeyRerotate.Run(span.AsSpan(), 4, [1, 2, 3], new() { Sections = [1, 1] }));
        Refused<ArgumentException>("keys[0]: int32", () => KeyRerotate.Run(new int[12].AsSpan(), 4, [1, 2, 3], plain));
        foreach (var backend in (AuxBackend[])[AuxBackend.Ilgpu])
        {
            Assert.False(KeyRerotate.IsSupported(backend, out var reason));
            Refused<BackendUnavailableException>(reason, () => KeyRerotate.Run(span.AsSpan(), 4, [1, 2, 3], plain, backend));
        }

        Assert.All(span, value => Assert.Equal(0, value));
        Assert.All(Scene.Read(keys), value => Assert.Equal(Scene.Untouched, value));
        KeyRerotate.Run([], moved, plain);
    }

    private static void Check<T>(Runner runner, RotaryOptions options, int heads, int tokens, int depth, double rounding)
        where T : unmanaged
    {
        var random = new Random(depth);
        var rows = Math.Max(1, options.Sections.Count);
        int[] old = [.. Enumerable.Range(0, rows * tokens).Select(_ => random.Next(0, 4000))];
        int[] differences = [.. old.Select(position => random.Next(3) == 0 ? 0 : random.Next(-position, 300))];
        var plain = TokenMergeTests.Values(heads * tokens * depth, depth);
        var (keys, _) = RandomScores.As<T>(Embedded(plain, old));
        T[] padded = [default, .. keys, default];
        runner.Run(backend => KeyRerotate.Run(padded.AsSpan(1, keys.Length), depth, differences, options, backend));

        var (expected, actual) = (Embedded(plain, [.. old.Zip(differences, (a, b) => a + b)]), RandomScores.Widen(padded[1..^1]));
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], actual[i], Tolerances.KeyRerotateAbsolute + rounding);
        Assert.Equal(default, padded[0]);
        Assert.Equal(default, padded[^1]);

        // The embedding in double, from its definition.
        float[] Embedded(float[] values, int[] positions)
        {
            var rotated = options.RotatedDepth == 0 ? depth : options.RotatedDepth;
            var result = (float[])values.Clone();
            for (var at = 0; at < values.Length; at += depth)
            {
                for (var pair = 0; pair < rotated / 2; pair++)
                {
                    var (row, left) = (0, pair);
                    while (options.Sections.Count > 0 && left >= options.Sections[row])
                        left -= options.Sections[row++];
                    var frequency = options.Frequencies.Count > 0
                        ? options.Frequencies[pair] : 1 / Math.Pow(options.Base, 2.0 * pair / rotated);
                    var angle = positions[row * tokens + at / depth % tokens] * frequency;
                    var halves = options.Layout == RotaryLayout.Halves;
                    var (i, j) = halves ? (at + pair, at + pair + rotated / 2) : (at + 2 * pair, at + 2 * pair + 1);
                    result[i] = (float)(values[i] * Math.Cos(angle) - values[j] * Math.Sin(angle));
                    result[j] = (float)(values[i] * Math.Sin(angle) + values[j] * Math.Cos(angle));
                }
            }

            return result;
        }
    }

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
