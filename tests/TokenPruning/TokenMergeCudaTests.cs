using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>TokenMerge on device memory: the CPU backend's groups, and its bits of means, sizes and gradients.</summary>
public class TokenMergeCudaTests
{
    // Cosines that are closer may be in either order; the CPU adds products in another one.
    private const double Rounding = 1e-6;

    public TokenMergeCudaTests() => CudaDriver.Require();

    [Fact]
    public void Bipartite_groups_are_the_Cpus()
    {
        foreach (var segments in (int[][])[[0], [0, 0], [0, 1], [0, 2], [0, 5, 5, 16], [0, 130], [0, 129, 132]])
        {
            foreach (var (depth, merged, protect) in ((int, int, int)[])[(9, 0, 0), (16, 3, 1), (33, 40, 0), (8, 9999, 3)])
            {
                CheckBipartite<float>(segments, depth, merged, protect);
                CheckBipartite<BFloat16>(segments, depth, merged, protect);
                CheckBipartite<Half>(segments, depth, merged, protect);
            }
        }
    }

    [Fact]
    public void Dropped_tokens_go_where_the_Cpu_sends_them() => Gen
        .Select(Gen.Int[1, 150], Gen.Int[6, 40], Gen.Int[1, 5], Gen.Bool)
        .Sample(
            (tokens, depth, share, targeted) =>
            {
                var random = new Random(tokens);
                var metric = TokenMergeTests.Values(tokens * depth, depth);
                var slot = 0;
                int[] segments = [0, tokens / 3, tokens];
                int[] before = [.. Enumerable.Range(0, tokens).Select(_ => random.Next(share) == 0 ? slot++ : -1)];
                bool[] targets = targeted ? [.. before.Select(_ => random.Next(3) > 0)] : [];
                int[] expected = [.. before];
                TokenMerge.Assign(metric, depth, segments, expected, targets);

                using var devices = new Devices();
                var slots = devices.Add(before);
                TokenMerge.Assign(
                    devices.Add(metric, tokens, depth), devices.Add(segments), slots, targeted ? devices.Add(targets) : default,
                    workspace: Workspace(devices, TokenMerge.MatchWorkspaceBytes(tokens, 2)));
                var actual = Devices.Read<int>(slots);
                for (var i = 0; i < tokens; i++)
                {
                    if (actual[i] == expected[i])
                        continue;
                    Assert.True(before[i] < 0 && actual[i] >= 0, $"token {i}: {actual[i]}, not {expected[i]}");
                    var (ours, theirs) = (Array.IndexOf(before, actual[i]), Array.IndexOf(before, expected[i]));
                    Assert.Equal(Cosine(metric, depth, i, theirs), Cosine(metric, depth, i, ours), Rounding);
                }

                devices.CheckMargins();
            },
            iter: 25);

    [Fact]
    public void Equal_similarities_go_to_the_lower_index_and_NaN_and_zero_vectors_are_as_on_the_Cpu()
    {
        using var devices = new Devices();
        var metric = devices.Add(new float[] { 1, 0, 2, 0, 3, 0, 4, 0, 0, 0, -1, 0, float.NaN, 1 }, 7, 2);
        var (segments, workspace) = (devices.Add(new[] { 0, 7 }), Workspace(devices, TokenMerge.MatchWorkspaceBytes(7, 1)));
        var (slots, offsets) = (devices.Add(new int[7]), devices.Add(new int[2]));
        TokenMerge.Bipartite(metric, segments, 1, slots, offsets, workspace: workspace);
        Assert.Equal([0, 0, 1, 2, 3, 4, 5], Devices.Read<int>(slots));
        Assert.Equal([0, 6], Devices.Read<int>(offsets));
        TokenMerge.Bipartite(metric, segments, 4, slots, offsets, workspace: workspace);
        Assert.Equal([0, 0, 0, 1, 0, 2, 0], Devices.Read<int>(slots));
        Assert.Equal([0, 3], Devices.Read<int>(offsets));

        var left = devices.Add(new[] { -1, 0, -1, 1, -1, 2, -1 });
        TokenMerge.Assign(metric, segments, left, workspace: workspace);
        Assert.Equal([0, 0, 0, 1, 0, 2, 0], Devices.Read<int>(left));
        var without = devices.Add(new[] { -1, -1, -1, -1, -1, -1, -1 });
        TokenMerge.Assign(metric, segments, without, workspace: workspace);
        Assert.All(Devices.Read<int>(without), slot => Assert.Equal(-1, slot));
        devices.CheckMargins();
    }

    [Fact]
    public void Means_sizes_and_gradients_are_the_Cpus_bits()
    {
        foreach (var (tokens, kept, width) in ((int, int, int)[])[(0, 0, 3), (0, 2, 3), (1, 1, 1), (9, 4, 5), (300, 7, 33), (30, 30, 8),
            (25, 3, 700)])
        {
            foreach (var sized in (bool[])[false, true])
            {
                CheckRows<float>(tokens, kept, width, sized);
                CheckRows<BFloat16>(tokens, kept, width, sized);
                CheckRows<Half>(tokens, kept, width, sized);
            }
        }
    }

    [Fact]
    public void Sizes_are_conserved() => Gen
        .Select(Gen.Int[1, 200], Gen.Int[0, 60])
        .Sample(
            (tokens, merged) =>
            {
                using var devices = new Devices();
                var metric = devices.Add(TokenMergeTests.Values(tokens * 8, tokens), tokens, 8);
                var (slots, offsets) = (devices.Add(new int[tokens]), devices.Add(new int[2]));
                TokenMerge.Bipartite(
                    metric, devices.Add(new[] { 0, tokens }), merged, slots, offsets,
                    workspace: Workspace(devices, TokenMerge.MatchWorkspaceBytes(tokens, 1)));
                var kept = Devices.Read<int>(offsets)[1];
                Assert.Equal(tokens - Math.Min(merged, tokens > 1 ? (tokens + 1) / 2 : 0), kept);
                var sizes = devices.Add(Enumerable.Range(1, tokens).Select(i => (float)i).ToArray());
                var mergedSizes = devices.Add(new float[kept]);
                TokenMerge.Run(
                    metric, slots, devices.Add(new float[kept * 8], kept, 8), sizes, mergedSizes,
                    workspace: Workspace(devices, TokenMerge.WorkspaceBytes(tokens, kept)));
                return Devices.Read<float>(mergedSizes).Sum() == tokens * (tokens + 1) / 2; // integers, so exactly
            },
            iter: 15);

    [Fact]
    public void One_member_is_copied_bit_for_bit_and_a_slot_without_members_is_zero()
    {
        using var devices = new Devices();
        var tokens = devices.Add(new[] { -0f, float.NaN, float.PositiveInfinity, 1e38f, 1, 2, 3, 4 }, 4, 2);
        var (slots, sizes) = (devices.Add(new[] { 2, 0, -1, 3 }), devices.Add(new[] { 3, 0.1f, 7, 5 }));
        var (merged, mergedSizes) = (devices.Add(new float[] { 9, 9, 9, 9, 9, 9 }, 3, 2), devices.Add(new float[] { 9, 9, 9 }));
        var workspace = Workspace(devices, TokenMerge.WorkspaceBytes(4, 3));
        TokenMerge.Run(tokens, slots, merged, sizes, mergedSizes, workspace: workspace); // slot 3 is none, so its token goes nowhere
        Assert.Equal(Devices.Bits([float.PositiveInfinity, 1e38f, 0, 0, -0f, float.NaN]), Devices.Bits(Devices.Read<float>(merged)));
        Assert.Equal([0.1f, 0, 3], Devices.Read<float>(mergedSizes));
        var gradient = devices.Add(new float[8], 4, 2);
        TokenMerge.Backward(merged, slots, gradient, sizes, workspace: workspace);
        Assert.Equal(
            Devices.Bits([-0f, float.NaN, float.PositiveInfinity, 1e38f, 0, 0, 0, 0]), Devices.Bits(Devices.Read<float>(gradient)));
        devices.CheckMargins();
    }

    [Fact]
    public void What_segments_say_is_held_within_the_tokens()
    {
        foreach (var segments in (int[][])[[0, 900, 3, -5, 1 << 30], [-9, 20, 10, 20], [7, 7]])
        {
            using var devices = new Devices();
            var (metric, bounds) = (devices.Add(TokenMergeTests.Values(60, 1), 20, 3), devices.Add(segments));
            var (slots, offsets) = (devices.Add(new int[20]), devices.Add(new int[segments.Length]));
            var workspace = Workspace(devices, TokenMerge.MatchWorkspaceBytes(20, segments.Length - 1));
            TokenMerge.Bipartite(metric, bounds, 3, slots, offsets, workspace: workspace);
            TokenMerge.Assign(metric, bounds, slots, workspace: workspace);
            devices.CheckMargins();
        }
    }

    [Fact]
    public void The_same_batch_gives_the_same_bits_whatever_the_workspace_held()
    {
        using var devices = new Devices();
        var metric = devices.Add(TokenMergeTests.Values(150 * 9, 3), 150, 9);
        var (slots, offsets) = (devices.Add(new int[150]), devices.Add(new int[2]));
        var segments = devices.Add(new[] { 0, 150 });
        var (matching, merging) = (TokenMerge.MatchWorkspaceBytes(150, 1), TokenMerge.WorkspaceBytes(150, 110));
        var merged = devices.Add(new float[110 * 9], 110, 9);
        (int[] Slots, float[] Merged)[] both =
        [
            .. new byte[] { 0x00, 0xff }.Select(fill =>
            {
                TokenMerge.Bipartite(metric, segments, 40, slots, offsets, workspace: Workspace(devices, matching, fill));
                TokenMerge.Run(metric, slots, merged, workspace: Workspace(devices, merging, fill));
                return (Devices.Read<int>(slots), Devices.Read<float>(merged));
            }),
        ];
        Assert.Equal(both[0].Slots, both[1].Slots);
        Assert.Equal(both[0].Merged, both[1].Merged);
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var metric = devices.Add(new float[] { 1, 2, 1, 2 }, 2, 2);
        var (segments, slots, offsets) = (devices.Add(new[] { 0, 2 }), devices.Add(new[] { 7, 7 }), devices.Add(new int[2]));
        var merged = devices.Add(new float[2], 1, 2);
        var (matching, merging) =
            (Workspace(devices, TokenMerge.MatchWorkspaceBytes(2, 1)), Workspace(devices, TokenMerge.WorkspaceBytes(2, 1)));
        TokenMerge.Bipartite(metric, segments, 1, slots, offsets, workspace: matching, stream: stream);
        Assert.Equal([0, 0], Devices.Read<int>(slots, stream));
        TokenMerge.Run(metric, slots, merged, workspace: merging, stream: stream);
        Assert.Equal([1, 2], Devices.Read<float>(merged, stream));
        var left = devices.Add(new[] { 0, -1 });
        TokenMerge.Assign(metric, segments, left, workspace: matching, stream: stream);
        Assert.Equal([0, 0], Devices.Read<int>(left, stream));
        TokenMerge.Backward(merged, slots, metric, workspace: merging, stream: stream);
        Assert.Equal([0.5f, 1, 0.5f, 1], Devices.Read<float>(metric, stream));
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (metric, segments) = (devices.Add(new float[8], 4, 2), devices.Add(new[] { 0, 4 }));
        var (slots, offsets) = (devices.Add(new[] { -7, -7, -7, -7 }), devices.Add(new[] { -7, -7 }));
        var (merged, own) = (devices.Add(new float[] { -7, -7, -7, -7 }, 2, 2), devices.Add(new[] { 0, 1, 0, 1 }));
        var workspace = Workspace(devices, TokenMerge.MatchWorkspaceBytes(4, 1));
        var small = devices.Keep(DeviceBuffer.Allocate<byte>(64)).View(64);
        void Refused<TException>(string message, Action action) where TException : Exception
        {
            Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
            Assert.All(
                [.. Devices.Read<int>(slots), .. Devices.Read<int>(offsets), .. Devices.Read<float>(merged)],
                value => Assert.Equal(-7, value));
        }

        Refused<ArgumentException>("workspace: missing; uint8[", () => TokenMerge.Bipartite(metric, segments, 1, slots, offsets));
        Refused<ArgumentException>("workspace: missing; uint8[", () => TokenMerge.Assign(metric, segments, slots));
        Refused<ArgumentException>("workspace: missing; uint8[", () => TokenMerge.Run(metric, own, merged));
        Refused<ArgumentException>("workspace: missing; uint8[", () => TokenMerge.Backward(merged, own, metric));
        Refused<ArgumentException>(
            "or more is needed on cuda:0", () => TokenMerge.Bipartite(metric, segments, 1, slots, offsets, workspace: small));
        Refused<ArgumentException>("or more is needed on cuda:0", () => TokenMerge.Run(metric, own, merged, workspace: small));
        Refused<ArgumentException>(
            "segments: int32[0]", () => TokenMerge.Assign(
                metric, TensorView.FromPointer((void*)segments.Address, DType.Int32, [0], device: segments.Device), slots,
                workspace: workspace));
        Refused<ArgumentException>(
            "offsets overlaps slots", () => TokenMerge.Bipartite(
                metric, segments, 1, slots,
                TensorView.FromPointer((void*)slots.Address, DType.Int32, [2], device: slots.Device), workspace: workspace));
        Refused<ArgumentException>(
            "workspace overlaps", () => TokenMerge.Run(
                metric, own, merged, workspace: TensorView.FromPointer((void*)merged.Address, DType.UInt8, [1024], device: merged.Device)));
        float* host = stackalloc float[8];
        var said = TensorView.FromPointer(host, DType.Float32, [4, 2], device: metric.Device);
        Refused<ArgumentException>(
            "is not device memory", () => TokenMerge.Bipartite(said, segments, 1, slots, offsets, workspace: workspace));
        Refused<ArgumentException>("is not device memory", () => TokenMerge.Assign(said, segments, slots, workspace: workspace));
        Refused<ArgumentException>("is not device memory", () => TokenMerge.Run(said, own, merged, workspace: workspace));
        Refused<ArgumentException>("is not device memory", () => TokenMerge.Backward(merged, own, said, workspace: workspace));
        Refused<BackendUnavailableException>(
            "the tensors are on cuda:0", () => TokenMerge.Run(metric, own, merged, backend: AuxBackend.Reference, workspace: workspace));
        Refused<BackendUnavailableException>(
            "the tensors are on cpu",
            () => TokenMerge.Bipartite(new float[4], 2, [0, 2], 1, new int[2], new int[2], backend: AuxBackend.Cuda));
        devices.CheckMargins();
    }

    [Fact]
    public void The_workspace_is_as_large_as_the_library_says()
    {
        foreach (var (tokens, others) in ((int, int)[])
            [(0, 0), (0, 3), (1, 1), (64, 1), (65, 9), (577, 1), (1025, 33), (16_384, 4), (100_000, 0)])
        {
            NativeStatus.Check(Native.TokenMatchWorkspace(tokens, others, out var matching), "test");
            Assert.Equal(matching, TokenMerge.MatchWorkspaceBytes(tokens, others));
            NativeStatus.Check(Native.TokenMergeWorkspace(tokens, others, out var merging), "test");
            Assert.Equal(merging, TokenMerge.WorkspaceBytes(tokens, others));
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => TokenMerge.MatchWorkspaceBytes(-1, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => TokenMerge.MatchWorkspaceBytes(1, -1));
        Assert.Throws<ArgumentOutOfRangeException>(() => TokenMerge.WorkspaceBytes(-1, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => TokenMerge.WorkspaceBytes(1, -1));
    }

    private static TensorView Workspace(Devices devices, long bytes, byte fill = 0x7f)
    {
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
        workspace.FillBytes(fill);
        return workspace.View(bytes);
    }

    private static unsafe void CheckBipartite<T>(int[] segments, int depth, int merged, int protect) where T : unmanaged
    {
        var tokens = segments[^1];
        var (stored, _) = RandomScores.As<T>(TokenMergeTests.Values(tokens * depth, depth));
        var (slots, offsets) = (new int[tokens], new int[segments.Length]);
        fixed (T* from = stored)
        fixed (int* bounds = segments, places = slots, ends = offsets)
        {
            TokenMerge.Bipartite(
                TensorView.FromPointer(from, DTypes.Of<T>(), [tokens, depth]),
                TensorView.FromPointer(bounds, DType.Int32, [segments.Length]), merged,
                TensorView.FromPointer(places, DType.Int32, [tokens]), TensorView.FromPointer(ends, DType.Int32, [segments.Length]),
                protect);
        }

        using var devices = new Devices();
        var (actual, ended) = (devices.Add(new int[tokens]), devices.Add(new int[segments.Length]));
        var bytes = TokenMerge.MatchWorkspaceBytes(tokens, segments.Length - 1);
        TokenMerge.Bipartite(
            devices.Add(stored, tokens, depth), devices.Add(segments), merged, actual, ended, protect,
            workspace: bytes == 0 ? default : Workspace(devices, bytes));
        Assert.Equal(slots, Devices.Read<int>(actual));
        Assert.Equal(offsets, Devices.Read<int>(ended));
        devices.CheckMargins();
    }

    private static void CheckRows<T>(int tokens, int kept, int width, bool sized) where T : unmanaged
    {
        var random = new Random(tokens);
        T[] rows = RandomScores.As<T>(TokenMergeTests.Values(tokens * width, width)).Stored,
            above = RandomScores.As<T>(TokenMergeTests.Values(kept * width, width + 1)).Stored;
        int[] slots = [.. Enumerable.Range(0, tokens).Select(_ => random.Next(-1, kept))];
        float[] sizes = sized ? [.. Enumerable.Range(0, tokens).Select(_ => (float)random.NextDouble() * 9 + 0.1f)] : [];
        var (merged, mergedSizes, gradient) = (new T[above.Length], new float[kept], new T[rows.Length]);
        TokenMerge.Run<T>(rows, width, slots, merged, sizes, mergedSizes);
        TokenMerge.Backward<T>(above, width, slots, gradient, sizes);

        using var devices = new Devices();
        var (actual, actualSizes) = (devices.Add(new T[above.Length], kept, width), devices.Add(new float[kept]));
        var (spread, places) = (devices.Add(new T[rows.Length], tokens, width), devices.Add(slots));
        var (weights, workspace) =
            (sized ? devices.Add(sizes) : default, Workspace(devices, TokenMerge.WorkspaceBytes(tokens, kept)));
        TokenMerge.Run(devices.Add(rows, tokens, width), places, actual, weights, actualSizes, workspace: workspace);
        TokenMerge.Backward(devices.Add(above, kept, width), places, spread, weights, workspace: workspace);
        Assert.Equal(merged, Devices.Read<T>(actual));
        Assert.Equal(mergedSizes, Devices.Read<float>(actualSizes));
        Assert.Equal(gradient, Devices.Read<T>(spread));
        TokenMerge.Run(devices.Add(rows, tokens, width), places, actual, weights, workspace: workspace); // without sizes
        Assert.Equal(merged, Devices.Read<T>(actual));
        devices.CheckMargins();
    }

    private static double Cosine(float[] metric, int depth, int a, int b)
    {
        double Dot(int i, int j) => Enumerable.Range(0, depth).Sum(k => (double)metric[i * depth + k] * metric[j * depth + k]);
        return Dot(a, b) / Math.Sqrt(Dot(a, a) * Dot(b, b));
    }
}
