using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class TokenCompactTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Rows_of_every_width_are_the_rows_that_the_indices_name(Runner runner)
    {
        foreach (var width in (int[])[1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 130, 1000])
        {
            foreach (var tokens in (int[])[0, 1, 2, 50])
            {
                Check<float>(runner, width, tokens, offset: 0);
                Check<BFloat16>(runner, width, tokens, offset: 1);
                Check<Half>(runner, width, tokens, offset: 3);
                Check<long>(runner, width, tokens, offset: 1);
                Check<byte>(runner, width, tokens, offset: 5);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Much_memory_is_moved_past_the_cache_and_by_threads_to_the_same_bits(Runner runner)
    {
        Check<float>(runner, width: 2051, tokens: 4200, offset: 1); // 10 MB are kept
        Check<BFloat16>(runner, width: 4096, tokens: 2100, offset: 8);
        Check<Half>(runner, width: 17, tokens: 300_000, offset: 0);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void All_layers_positions_and_labels_move_in_one_call(Runner runner)
    {
        const int Batch = 3, Longest = 20, Heads = 2, Depth = 5, Layers = 4, Room = 25;
        int[] segments = [0, 20, 20, 37], offsets = [0, 4, 4, 13];
        int[] indices = [0, 5, 6, 19, 20, 21, 22, 25, 26, 30, 33, 35, 36];
        using var scene = new Scene(segments, offsets, indices, slots: null);
        List<(long[] Shape, int Segment, int Token, DType Type)> kinds = [([Batch, Longest, 7], 0, 1, DType.BFloat16), ([37, 7], -1, 0,
            DType.Float32), ([3, Batch, Longest], 1, 2, DType.Int64), ([3, 37], -1, 1, DType.Int32), ([Batch, Longest], 0, 1, DType.Int64),
            ([Longest, Batch, 6], 1, 0, DType.Float16)];
        for (var layer = 0; layer < 2 * Layers; layer++)
            kinds.Add(([Batch, Heads, Longest, Depth], 0, 2, DType.Float16));

        foreach (var clearRest in (bool[])[false, true])
        {
            TokenRows[] tensors = [.. kinds.Select((kind, i) =>
            {
                var source = scene.Tensor(kind.Type, kind.Shape, seed: i + 1);
                long[] shape = [.. kind.Shape];
                shape[kind.Token] = kind.Segment < 0 ? 13 + i % 2 : 9 + i % 3;
                var destination = scene.Tensor(kind.Type, shape, seed: -1);
                return kind.Segment < 0
                    ? TokenRows.Ragged(source, destination, kind.Token, clearRest)
                    : TokenRows.Padded(source, destination, kind.Segment, kind.Token, clearRest);
            })];
            runner.Run(backend => TokenCompact.Run(tensors, scene.Segments, scene.Selection, backend));
            for (var i = 0; i < tensors.Length; i++)
                scene.CheckForward(tensors[i], i + 1, clearRest ? 0 : Scene.Untouched);
        }

        // In place, in views of caches with room for more: nothing but the rows that are kept changes.
        TokenRows[] caches = [.. Enumerable.Range(0, 2 * Layers).Select(layer =>
        {
            var cache = scene.Tensor(DType.Float32, [Batch, Heads, Room, Depth], layer + 1);
            var view = Scene.Narrow(cache, axis: 2, Longest);
            return TokenRows.Padded(view, view, 0, 2);
        })];
        var before = caches.Select(cache => Scene.Read(cache.Source)).ToArray();
        runner.Run(backend => TokenCompact.Run(caches, scene.Segments, scene.Selection, backend));
        for (var i = 0; i < caches.Length; i++)
        {
            var after = Scene.Read(caches[i].Destination);
            for (var b = 0; b < Batch; b++)
            {
                for (var head = 0; head < Heads; head++)
                {
                    for (var place = 0; place < Longest; place++)
                    {
                        var token = offsets[b] + place < offsets[b + 1] ? indices[offsets[b] + place] - segments[b] : place;
                        var (to, from) = (((b * Heads + head) * Longest + place) * Depth, ((b * Heads + head) * Longest + token) * Depth);
                        Assert.Equal(before[i][from..(from + Depth)], after[to..(to + Depth)]);
                    }
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Keeping_all_is_the_identity_and_keeping_none_writes_nothing(Runner runner)
    {
        float[] rows = [.. Enumerable.Range(0, 60).Select(i => i == 7 ? float.NaN : i)];
        float[] copy = new float[60], before = (float[])rows.Clone();
        int[] all = [.. Enumerable.Range(0, 12)];
        runner.Run(backend =>
        {
            TokenCompact.Run<float>(rows, 5, all, copy, backend);
            TokenCompact.Run<float>(rows, 5, all, rows, backend);
            TokenCompact.Run<float>(copy, 5, [], rows, backend);
            TokenCompact.Run<float>(copy, 5, [], [], backend);
        });
        Assert.Equal(before, rows);
        Assert.Equal(before, copy);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_gradient_of_padded_tensors_is_zero_where_nothing_was_kept(Runner runner)
    {
        int[] segments = [0, 4, 4, 10], offsets = [0, 2, 2, 5];
        int[] slots = [-1, 0, -1, 1, 2, -1, -1, 3, -1, 4];
        using var scene = new Scene(segments, offsets, [1, 3, 4, 7, 9], slots);
        foreach (var width in (int[])[1, 2, 40])
        {
            var gradient = scene.Tensor(DType.Float32, [3, 2, 8, width], -1);
            var output = scene.Tensor(DType.Float32, [3, 2, 4, width], 3);
            var ragged = scene.Tensor(DType.BFloat16, [2, 10, width], -1);
            TokenRows[] tensors =
            [
                TokenRows.Padded(output, gradient, 0, 2), TokenRows.Ragged(scene.Tensor(DType.BFloat16, [2, 5, width], 4), ragged, 1),
            ];

            runner.Run(backend => TokenCompact.Backward(tensors, scene.Segments, scene.Selection, backend));

            var (spread, given, flat) = (Scene.Read(gradient), Scene.Read(output), Scene.Read(ragged));
            var source = Scene.Read(tensors[1].Source);
            for (var at = 0; at < spread.Length; at++)
            {
                var (strip, token, column) = (at / (8 * width), at / width % 8, at % width);
                var b = strip / 2;
                var slot = segments[b] + token < segments[b + 1] ? slots[segments[b] + token] - offsets[b] : -1;
                Assert.Equal(slot < 0 ? 0 : given[(strip * 4 + slot) * width + column], spread[at]);
            }

            for (var at = 0; at < flat.Length; at++)
            {
                var (strip, token, column) = (at / (10 * width), at / width % 10, at % width);
                Assert.Equal(slots[token] < 0 ? 0 : source[(strip * 5 + slots[token]) * width + column], flat[at]);
            }
        }
    }

    [Fact]
    public void The_backward_is_the_transpose_of_the_forward() => Gen
        .Select(Gen.Int[0, 40], Gen.Int[1, 20], Gen.Double[0, 1], Gen.Int[0, 99])
        .Sample((tokens, width, ratio, seed) =>
        {
            // ⟨gradient, x⟩ = ⟨backward(gradient), …⟩ for small integers, whose sums are exact.
            var random = new Random(seed);
            var (indices, slots) = Selected(tokens, ratio, seed);
            float[] x = [.. Enumerable.Range(0, tokens * width).Select(_ => (float)random.Next(-9, 9))];
            float[] dy = [.. Enumerable.Range(0, indices.Length * width).Select(_ => (float)random.Next(-9, 9))];
            var (y, dx) = (new float[dy.Length], new float[x.Length]);
            Array.Fill(dx, float.NaN);
            TokenCompact.Run(x, width, indices, y.AsSpan());
            TokenCompact.Backward(dy, width, slots, dx.AsSpan());
            return y.Zip(dy, (a, b) => a * b).Sum() == x.Zip(dx, (a, b) => a * b).Sum();
        });

    private static (int[] Indices, int[] Slots) Selected(int tokens, double ratio, int seed)
    {
        var random = new Random(seed);
        float[] scores = [.. Enumerable.Range(0, tokens).Select(_ => (float)random.NextDouble())];
        int[] segments = [0, tokens], slots = new int[tokens];
        var indices = new int[TokenSelect.Capacity(segments, Budget.Ratio(ratio))];
        TokenSelect.Run(scores, segments, Budget.Ratio(ratio), new() { Indices = indices, Offsets = new int[2], Slots = slots });
        return (indices, slots);
    }

    private static void Check<T>(Runner runner, int width, int tokens, int offset) where T : unmanaged
    {
        var (indices, slots) = Selected(tokens, 0.3, width);
        var source = Scene.Random<T>(tokens * width + offset, width);
        var destination = Scene.Random<T>((indices.Length + 1) * width + offset + 1, 7);
        var gradient = Scene.Random<T>(tokens * width + offset + 1, 9);
        var (inPlace, canary, last) = ((T[])source.Clone(), destination[^(width + 1)..], gradient[^1]);

        runner.Run(backend =>
        {
            TokenCompact.Run(source.AsSpan(offset), width, indices, destination.AsSpan(offset, (indices.Length + 1) * width), backend);
            TokenCompact.Run(inPlace.AsSpan(offset), width, indices, inPlace.AsSpan(offset), backend);
            TokenCompact.Backward(
                destination.AsSpan(offset, indices.Length * width), width, slots, gradient.AsSpan(offset, tokens * width), backend);
        });

        for (var j = 0; j < indices.Length; j++)
        {
            var expected = source.AsSpan(offset + indices[j] * width, width);
            Assert.True(expected.SequenceEqual(destination.AsSpan(offset + j * width, width)), $"row {j} of width {width}");
            Assert.True(expected.SequenceEqual(inPlace.AsSpan(offset + j * width, width)), $"row {j} in place, of width {width}");
        }

        for (var i = 0; i < tokens; i++)
        {
            var row = gradient.AsSpan(offset + i * width, width);
            var right = slots[i] < 0 ? row.Count(default(T)) == width : row.SequenceEqual(source.AsSpan(offset + i * width, width));
            Assert.True(right, $"gradient {i}");
        }

        Assert.True(canary.AsSpan().SequenceEqual(destination.AsSpan()[^(width + 1)..]), "what is behind the kept rows");
        var rest = indices.Length * width;
        Assert.True(source.AsSpan(offset + rest).SequenceEqual(inPlace.AsSpan(offset + rest)), "what is behind the kept rows, in place");
        Assert.Equal(last, gradient[^1]);
    }
}
