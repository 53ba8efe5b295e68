using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

public class TokenDiversityTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Tokens_are_taken_greedily_by_the_distance_to_the_nearest(Runner runner)
    {
        foreach (var (segments, width) in ((int[], int)[])[([0], 3), ([0, 1], 4), ([0, 9, 9, 40], 7), ([0, 130], 200), ([0, 65, 97], 33)])
        {
            var tokens = TokenMergeTests.Values(segments[^1] * width, width);
            foreach (var count in (int[])[0, 1, 2, 7, 1000])
            {
                var (indices, slots, offsets) = Select(runner, tokens, width, segments, count);
                for (var b = 0; b + 1 < segments.Length; b++)
                {
                    var expected = Greedy(tokens, width, segments[b], segments[b + 1], count);
                    Assert.Equal(expected.Order(), indices[offsets[b]..offsets[b + 1]]);
                }

                Assert.Equal(indices.Length, offsets[^1]);
                Assert.All(Enumerable.Range(0, slots.Length), i => Assert.Equal(Array.IndexOf(indices, i), slots[i]));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Sixteen_bits_give_what_their_values_in_float32_give(Runner runner)
    {
        using var scene = new Scene([0], [0], [], null);
        foreach (var type in (DType[])[DType.BFloat16, DType.Float16])
        {
            var tokens = scene.Tensor(type, [50, 37], 5);
            var selection = new SelectionViews
            {
                Indices = scene.Tensor(DType.Int32, [9], -1), Offsets = scene.Integers(0, 0), Slots = scene.Tensor(DType.Int32, [50], -1),
            };
            runner.Run(backend => TokenDiversity.Run(tokens, scene.Integers(0, 50), 8, selection, backend));
            var (indices, slots, _) = Select(runner, Scene.Read(tokens), 37, [0, 50], 8);
            Assert.Equal([.. indices.Select(index => (float)index), Scene.Untouched], Scene.Read(selection.Indices));
            Assert.Equal(slots.Select(slot => (float)slot), Scene.Read(selection.Slots));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Ties_zero_vectors_and_tokens_that_are_not_finite_are_defined(Runner runner)
    {
        // Four times the same direction, twice nothing, one NaN, one infinity.
        float[] tokens = [1, 1, 2, 2, 3, 3, 0.5f, 0.5f, 0, 0, 0, 0, float.NaN, 1, 1, float.PositiveInfinity];
        foreach (var (count, kept) in ((int, int[])[])
            [(1, [4]), (2, [0, 4]), (3, [0, 4, 5]), (6, [0, 1, 2, 3, 4, 5]), (7, [0, 1, 2, 3, 4, 5, 6]), (8, [0, 1, 2, 3, 4, 5, 6, 7])])
        {
            var counts = new int[1];
            var indices = new int[8];
            var number = 0;
            runner.Run(backend => number = TokenDiversity.Run(
                tokens, 2, [0, 8], count, new() { Indices = indices, Offsets = new int[2], NaNCounts = counts }, backend));
            Assert.Equal(kept, indices[..number]);
            Assert.Equal([2], counts);
        }
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_selection()
    {
        const int Tokens = 300, Width = 400;
        var tokens = TokenMergeTests.Values(Tokens * Width, 9);
        var expected = Select(BackendMatrix.Scalar, tokens, Width, [0, Tokens], 90).Indices;
        foreach (var runner in BackendMatrix.All)
            Assert.Equal(expected, Select(runner, tokens, Width, [0, Tokens], 90).Indices);
    }

    [Fact]
    public void Fewer_are_a_part_of_more_and_scaling_a_token_changes_nothing() => Gen
        .Select(Gen.Int[1, 40], Gen.Int[2, 20], Gen.Int[0, 40], Gen.Int[0, 40], Gen.Int[0, 99])
        .Sample((count, width, one, other, seed) =>
        {
            var tokens = TokenMergeTests.Values(count * width, seed);
            float[] scaled = [.. tokens.Select((value, i) => value * (1 << (i / width % 5)))];
            var cpu = new Runner(AuxBackend.Cpu, 8);
            var fewer = Select(cpu, tokens, width, [0, count], Math.Min(one, other)).Indices;
            var more = Select(cpu, tokens, width, [0, count], Math.Max(one, other)).Indices;
            return fewer.All(more.Contains) && Select(cpu, scaled, width, [0, count], Math.Max(one, other)).Indices.SequenceEqual(more);
        });

    [Fact]
    public void Sizes_and_memory_are_checked()
    {
        var (tokens, indices, offsets) = (new float[8], new int[4], new int[2]);
        Array.Fill(indices, 7);
        Array.Fill(offsets, 7);
        void Run(int width, int[] segments, int count, int room = 4, AuxBackend backend = AuxBackend.Auto) => TokenDiversity.Run(
            tokens, width, segments, count, new() { Indices = indices.AsSpan(0, room), Offsets = offsets }, backend);

        Refused<ArgumentOutOfRangeException>("width", () => Run(0, [0, 4], 1));
        Refused<ArgumentException>("tokens: 8 elements are not rows of 3", () => Run(3, [0, 4], 1));
        Refused<ArgumentOutOfRangeException>("count", () => Run(2, [0, 4], -1));
        Refused<ArgumentException>("segments: they end at 3", () => Run(2, [0, 3], 1));
        Refused<ArgumentException>("selection.Offsets: 2 elements", () => Run(2, [0, 2, 4], 1));
        Refused<ArgumentException>("selection.Indices: int32[1] is too short for 2 tokens", () => Run(2, [0, 4], 2, room: 1));
        Refused<ArgumentException>("selection.Offsets overlaps selection.Indices", () => TokenDiversity.Run(
            tokens, 2, [0, 4], 1, new() { Indices = indices, Offsets = indices.AsSpan(1, 2) }));
        Refused<ArgumentException>("segment 0 has 22001 tokens; 22000", () => TokenDiversity.Run(
            new float[22001], 1, [0, 22001], 1, new() { Indices = indices, Offsets = offsets }));
        foreach (var backend in (AuxBackend[])[AuxBackend.Ilgpu])
        {
            Assert.False(TokenDiversity.IsSupported(backend, out var reason));
            Refused<BackendUnavailableException>(reason, () => Run(2, [0, 4], 1, backend: backend));
        }

        using var scene = new Scene([0], [0], [], null);
        var views = new SelectionViews { Indices = scene.Integers(1, 2), Offsets = scene.Integers(1, 2) };
        var segments = scene.Integers(0, 4);
        Refused<ArgumentException>("tokens: int32[4]", () => TokenDiversity.Run(scene.Tensor(DType.Int32, [4], 1), segments, 1, views));
        Refused<ArgumentException>(
            "tokens: int32[4, 2]", () => TokenDiversity.Run(scene.Tensor(DType.Int32, [4, 2], 1), segments, 1, views));
        Refused<ArgumentOutOfRangeException>(
            "width", () => TokenDiversity.Run(scene.Tensor(DType.Float32, [4, 0], 1), segments, 1, views));
        Refused<ArgumentException>("selection.Slots: int32[2]",
            () => TokenDiversity.Run(scene.Tensor(DType.Float32, [4, 2], 1), segments, 1, views with { Slots = views.Indices }));
        Assert.All([.. indices, .. offsets], value => Assert.Equal(7, value));
    }

    private static (int[] Indices, int[] Slots, int[] Offsets) Select(Runner runner, float[] tokens, int width, int[] segments, int count)
    {
        var (indices, slots, offsets) = (new int[segments[^1]], new int[segments[^1]], new int[segments.Length]);
        var kept = 0;
        runner.Run(backend => kept = TokenDiversity.Run(
            tokens, width, segments, count, new() { Indices = indices, Offsets = offsets, Slots = slots }, backend));
        return (indices[..kept], slots, offsets);
    }

    // DivPrune's words: distances, the first by its nearest neighbour, then the maximum of the minimum.
    private static List<int> Greedy(float[] tokens, int width, int from, int to, int count)
    {
        double Dot(int i, int j) => Enumerable.Range(0, width).Sum(k => (double)tokens[i * width + k] * tokens[j * width + k]);
        double Distance(int i, int j) => 1 - Dot(i, j) / Math.Sqrt(Dot(i, i) * Dot(j, j));
        List<int> kept = [], rest = [.. Enumerable.Range(from, to - from)];
        while (kept.Count < count && rest.Count > 0)
        {
            var others = kept.Count == 0 ? [.. rest] : kept;
            var next = rest.MaxBy(i => others.Where(j => j != i).Select(j => Distance(i, j)).DefaultIfEmpty(9).Min());
            kept.Add(next);
            rest.Remove(next);
        }

        return kept;
    }

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
