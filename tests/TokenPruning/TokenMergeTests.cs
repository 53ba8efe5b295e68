using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class TokenMergeTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Bipartite_matching_merges_the_most_similar_even_tokens_into_their_nearest_odd_ones(Runner runner)
    {
        foreach (var segments in (int[][])[[0, 1], [0, 2], [0, 5, 5, 16], [0, 100], [0, 577]])
        {
            foreach (var (depth, merged, protect) in ((int, int, int)[])[(9, 0, 0), (16, 3, 1), (33, 40, 0), (8, 9999, 3)])
            {
                var metric = Values(segments[^1] * depth, depth);
                var (slots, offsets) = (new int[segments[^1]], new int[segments.Length]);
                runner.Run(backend => TokenMerge.Bipartite(metric, depth, segments, merged, slots, offsets, protect, backend));
                for (var b = 0; b + 1 < segments.Length; b++)
                    CheckBipartite(metric, depth, segments[b], segments[b + 1], merged, protect, slots, offsets[b], offsets[b + 1]);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Equal_similarities_go_to_the_lower_index_and_NaN_and_zero_vectors_are_defined(Runner runner)
    {
        // Places 0, 2, 4, 6 look for a partner among 1, 3, 5.
        float[] metric = [1, 0, 2, 0, 3, 0, 4, 0, 0, 0, -1, 0, float.NaN, 1];
        int[] slots = new int[7], offsets = new int[2], all = new int[7], left = [-1, 0, -1, 1, -1, 2, -1], without = [-1, -1];
        runner.Run(backend =>
        {
            TokenMerge.Bipartite(metric, 2, [0, 7], 1, slots, offsets, backend: backend);
            TokenMerge.Bipartite(metric, 2, [0, 7], 4, all, offsets, backend: backend);
            TokenMerge.Assign(metric, 2, [0, 7], left, backend: backend);
            TokenMerge.Assign(metric.AsSpan(0, 4), 2, [0, 2], without, backend: backend);
        });
        Assert.Equal([0, 0, 1, 2, 3, 4, 5], slots); // 0 and 2 are as similar to 1 as to 3; of both, 0 goes, to 1
        Assert.Equal([0, 0, 0, 1, 0, 2, 0], all);   // 4 is zero: as similar to all; 6 is NaN: to none
        Assert.Equal([0, 0, 0, 1, 0, 2, 0], left);
        Assert.Equal([-1, -1], without);
        Assert.Equal([0, 3], offsets);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Dropped_tokens_go_to_the_nearest_target_of_their_segment(Runner runner)
    {
        foreach (var (type, depth) in ((DType, int)[])[(DType.Float32, 7), (DType.BFloat16, 64), (DType.Float16, 33)])
        {
            using var scene = new Scene([0], [0], [], null);
            int[] segments = [0, 300, 300, 321];
            var random = new Random(depth);
            var slot = 0;
            int[] before = [.. Enumerable.Range(0, 321).Select(_ => random.Next(4) == 0 ? slot++ : -1)];
            bool[] targets = [.. before.Select(_ => random.Next(3) > 0)];
            var metric = scene.Tensor(type, [321, depth], 0);
            unsafe
            {
                for (var i = 0; i < metric.ElementCount; i++)
                    ReferenceFormat.Store((void*)metric.Address, type, i, (float)random.NextDouble() - 0.5f);
                var slots = scene.Integers(before);
                var chosen = scene.Tensor(DType.Bool, [321], 0);
                targets.CopyTo(new Span<bool>((void*)chosen.Address, 321));
                runner.Run(backend => TokenMerge.Assign(metric, scene.Integers(segments), slots, chosen, backend));
                var (values, after) = (Scene.Read(metric), Scene.Read(slots));
                for (var i = 0; i < before.Length; i++)
                {
                    if (before[i] >= 0)
                    {
                        Assert.Equal(before[i], after[i]);
                        continue;
                    }

                    var (from, to) = i < 300 ? (0, 300) : (300, 321);
                    var best = Enumerable.Range(from, to - from).Where(token => before[token] >= 0 && targets[token])
                        .MaxBy(token => Cosine(values, depth, i, token));
                    Assert.Equal(before[best], after[i]);
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Slots_become_weighted_means_sizes_are_conserved_and_the_gradient_is_shared(Runner runner)
    {
        foreach (var (tokens, kept, width) in ((int, int, int)[])[(0, 0, 3), (1, 1, 1), (9, 4, 5), (40, 7, 33), (30, 30, 8), (25, 3, 2500)])
        {
            foreach (var sized in (bool[])[false, true])
            {
                Check<float>(runner, tokens, kept, width, sized, rounding: 0);
                Check<BFloat16>(runner, tokens, kept, width, sized, rounding: 1 / 256.0);
                Check<Half>(runner, tokens, kept, width, sized, rounding: 1 / 2048.0);
            }
        }
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        const int Tokens = 700, Width = 900;
        var (values, sizes) = (Values(Tokens * Width, 1), Values(Tokens, 2).Select(size => Math.Abs(size) + 0.1f).ToArray());
        (int[] Slots, float[] Merged, float[] Spread)? first = null;
        foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
        {
            var (slots, offsets) = (new int[Tokens], new int[2]);
            var (merged, spread) = (Array.Empty<float>(), new float[values.Length]);
            runner.Run(backend =>
            {
                TokenMerge.Bipartite(values, Width, [0, Tokens], 250, slots, offsets, backend: backend);
                merged = new float[offsets[1] * Width];
                TokenMerge.Run<float>(values, Width, slots, merged, sizes, backend: backend);
                TokenMerge.Backward<float>(merged, Width, slots, spread, sizes, backend);
            });
            first ??= (slots, merged, spread);
            Assert.Equal(first.Value.Slots, slots);
            Assert.Equal(first.Value.Merged, merged);
            Assert.Equal(first.Value.Spread, spread);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void One_member_is_copied_bit_for_bit_and_a_slot_without_members_is_zero(Runner runner)
    {
        float[] tokens = [-0f, float.NaN, float.PositiveInfinity, 1e38f, 1, 2, 3, 4], sizes = [3, 0.1f, 7, 5];
        float[] merged = [9, 9, 9, 9, 9, 9], mergedSizes = [9, 9, 9], gradient = new float[8];
        runner.Run(backend =>
        {
            TokenMerge.Run<float>(tokens, 2, [2, 0, -1, -1], merged, sizes, mergedSizes, backend);
            TokenMerge.Backward<float>(merged, 2, [2, 0, -1, -1], gradient, sizes, backend);
        });
        Assert.Equal([float.PositiveInfinity, 1e38f, 0, 0, -0f, float.NaN], merged);
        Assert.Equal([0.1f, 0, 3], mergedSizes);
        Assert.True(float.IsNegative(merged[4]));
        Assert.Equal([-0f, float.NaN, float.PositiveInfinity, 1e38f, 0, 0, 0, 0], gradient);
    }

    [Fact]
    public void The_backward_is_the_transpose_of_the_forward() => Gen
        .Select(Gen.Int[1, 40], Gen.Int[1, 9], Gen.Int[1, 20], Gen.Int[0, 99])
        .Sample((tokens, kept, width, seed) =>
        {
            var random = new Random(seed);
            int[] slots = [.. Enumerable.Range(0, tokens).Select(_ => random.Next(-1, kept))];
            float[] sizes = [.. Enumerable.Range(0, tokens).Select(_ => (float)random.Next(1, 9))];
            var (x, dy) = (Values(tokens * width, seed), Values(kept * width, seed + 1));
            var (y, dx) = (new float[dy.Length], new float[x.Length]);
            TokenMerge.Run<float>(x, width, slots, y, sizes);
            TokenMerge.Backward<float>(dy, width, slots, dx, sizes);
            var (left, right) = (y.Zip(dy, (a, b) => (double)a * b).Sum(), x.Zip(dx, (a, b) => (double)a * b).Sum());
            return Math.Abs(left - right) <= 1e-5 * kept * width;
        });

    internal static float[] Values(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))];
    }

    private static double Cosine(float[] metric, int depth, int a, int b)
    {
        double Dot(int i, int j) => Enumerable.Range(0, depth).Sum(k => (double)metric[i * depth + k] * metric[j * depth + k]);
        return Dot(a, b) / Math.Sqrt(Dot(a, a) * Dot(b, b));
    }

    private static void CheckBipartite(
        float[] metric, int depth, int from, int to, int merged, int protect, int[] slots, int firstSlot, int lastSlot)
    {
        int[] odd = [.. Enumerable.Range(from, to - from).Where(token => (token - from) % 2 == 1)];
        var pairs = Enumerable.Range(from, to - from).Where(token => (token - from) % 2 == 0 && token - from >= protect && odd.Length > 0)
            .Select(token => (Token: token, Partner: odd.MaxBy(other => Cosine(metric, depth, token, other))))
            .OrderByDescending(pair => Cosine(metric, depth, pair.Token, pair.Partner)).Take(merged)
            .ToDictionary(pair => pair.Token, pair => pair.Partner);
        var slot = firstSlot;
        for (var token = from; token < to; token++)
        {
            if (!pairs.ContainsKey(token))
                Assert.Equal(slot++, slots[token]);
        }

        Assert.Equal(slot, lastSlot);
        Assert.All(pairs, pair => Assert.Equal(slots[pair.Value], slots[pair.Key]));
    }

    private static void Check<T>(Runner runner, int tokens, int kept, int width, bool sized, double rounding) where T : unmanaged
    {
        var random = new Random(tokens);
        var (stored, values) = RandomScores.As<T>(Values(tokens * width, width));
        var (outputs, gradients) = RandomScores.As<T>(Values(kept * width, width + 1));
        int[] slots = [.. Enumerable.Range(0, tokens).Select(_ => random.Next(-1, kept))];
        float[] sizes = sized ? [.. Enumerable.Range(0, tokens).Select(_ => (float)random.Next(1, 50))] : [];
        T[] source = [default, .. stored], merged = new T[kept * width + 2], spread = new T[tokens * width + 2];
        var mergedSizes = new float[kept];
        runner.Run(backend =>
        {
            TokenMerge.Run<T>(source.AsSpan(1), width, slots, merged.AsSpan(1, kept * width), sizes, mergedSizes, backend);
            TokenMerge.Backward<T>(outputs, width, slots, spread.AsSpan(1, tokens * width), sizes, backend);
        });

        double SizeOf(int token) => sized ? sizes[token] : 1;
        var (means, totals) = (RandomScores.Widen(merged[1..^1]), new double[kept]);
        for (var i = 0; i < tokens; i++)
        {
            if (slots[i] >= 0)
                totals[slots[i]] += SizeOf(i);
        }

        Assert.Equal(totals, mergedSizes.Select(size => (double)size)); // small integers: conserved exactly
        for (var slot = 0; slot < kept; slot++)
        {
            for (var k = 0; k < width; k++)
            {
                var sum = Enumerable.Range(0, tokens).Where(i => slots[i] == slot).Sum(i => SizeOf(i) * values[i * width + k]);
                Near(totals[slot] == 0 ? 0 : sum / totals[slot], means[slot * width + k]);
            }
        }

        var shares = RandomScores.Widen(spread[1..^1]);
        for (var at = 0; at < shares.Length; at++)
        {
            var slot = slots[at / width];
            Near(slot < 0 ? 0 : gradients[slot * width + at % width] * SizeOf(at / width) / totals[slot], shares[at]);
        }

        Assert.All((T[])[merged[0], merged[^1], spread[0], spread[^1]], canary => Assert.Equal(default, canary));

        void Near(double expected, float actual) =>
            Assert.Equal(expected, actual, Tolerances.TokenMergeAbsolute + rounding * Math.Abs(expected));
    }
}
