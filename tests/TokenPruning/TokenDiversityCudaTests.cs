using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>TokenDiversity on device memory: the CPU backend's selections.</summary>
public class TokenDiversityCudaTests
{
    public TokenDiversityCudaTests() => CudaDriver.Require();

    [Fact]
    public void Selections_are_the_Cpus()
    {
        foreach (var (segments, width) in ((int[], int)[])
            [([0], 3), ([0, 0], 3), ([0, 1], 4), ([0, 9, 9, 40], 7), ([0, 130], 60), ([0, 65, 97], 33)])
        {
            foreach (var count in (int[])[0, 1, 2, 7, 1000])
            {
                Check<float>(segments, width, count, longest: 0);
                Check<BFloat16>(segments, width, count, longest: 97 < segments[^1] ? 130 : 97);
                Check<Half>(segments, width, count, longest: 0);
            }
        }
    }

    [Fact]
    public void Any_selection_is_the_Cpus_and_fewer_are_a_part_of_more() => Gen
        .Select(Gen.Int[1, 100], Gen.Int[4, 40], Gen.Int[0, 100])
        .Sample(
            (tokens, width, count) =>
            {
                int[] segments = [0, tokens / 4, tokens];
                var kept = Check<float>(segments, width, count, longest: 0);
                return Check<float>(segments, width, count / 2, longest: tokens).All(kept.Contains);
            },
            iter: 25);

    [Fact]
    public void Ties_zero_vectors_and_tokens_that_are_not_finite_are_as_on_the_Cpu()
    {
        using var devices = new Devices();
        var tokens = devices.Add(
            new[] { 1, 1, 2, 2, 3, 3, 0.5f, 0.5f, 0, 0, 0, 0, float.NaN, 1, 1, float.PositiveInfinity }, 8, 2);
        var segments = devices.Add(new[] { 0, 8 });
        foreach (var (count, kept) in ((int, int[])[])
            [(1, [4]), (2, [0, 4]), (3, [0, 4, 5]), (6, [0, 1, 2, 3, 4, 5]), (7, [0, 1, 2, 3, 4, 5, 6]), (8, [0, 1, 2, 3, 4, 5, 6, 7])])
        {
            var selection = Views(devices, 8, 1, count);
            TokenDiversity.Run(tokens, segments, count, selection);
            Assert.Equal(kept, Devices.Read<int>(selection.Indices));
            Assert.Equal([0, count], Devices.Read<int>(selection.Offsets));
            Assert.Equal([2], Devices.Read<int>(selection.NaNCounts));
        }

        devices.CheckMargins();
    }

    [Fact]
    public void What_segments_say_is_held_within_the_tokens_and_within_the_longest()
    {
        using var devices = new Devices();
        var tokens = devices.Add(TokenMergeTests.Values(60, 1), 20, 3);
        foreach (var segments in (int[][])[[0, 900, 3, -5, 1 << 30], [-9, 20, 10, 20], [7, 7]])
            TokenDiversity.Run(tokens, devices.Add(segments), 4, Views(devices, 20, segments.Length - 1, 20));

        var selection = Views(devices, 20, 2, 12, longest: 3);
        TokenDiversity.Run(tokens, devices.Add(new[] { 0, 10, 20 }), 6, selection, longest: 3);
        Assert.Equal([0, 1, 2, 10, 11, 12, -7, -7, -7, -7, -7, -7], Devices.Read<int>(selection.Indices));
        Assert.Equal([0, 3, 6], Devices.Read<int>(selection.Offsets));
        devices.CheckMargins();
    }

    [Fact]
    public void The_same_batch_gives_the_same_bits_whatever_the_workspace_held()
    {
        using var devices = new Devices();
        var tokens = devices.Add(TokenMergeTests.Values(140 * 9, 3), 140, 9);
        var segments = devices.Add(new[] { 0, 140 });
        int[][] both =
        [
            .. new byte[] { 0x00, 0xff }.Select(fill =>
            {
                var selection = Views(devices, 140, 1, 50, fill: fill);
                TokenDiversity.Run(tokens, segments, 50, selection);
                return Devices.Read<int>(selection.Indices);
            }),
        ];
        Assert.Equal(both[0], both[1]);
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var selection = Views(devices, 3, 1, 2);
        TokenDiversity.Run(
            devices.Add(new float[] { 1, 0, 1, 0.1f, 0, 1 }, 3, 2), devices.Add(new[] { 0, 3 }), 2, selection, stream: stream);
        Assert.Equal([0, 2], Devices.Read<int>(selection.Indices, stream));
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (tokens, segments) = (devices.Add(new float[8], 4, 2), devices.Add(new[] { 0, 4 }));
        var good = Views(devices, 4, 1, 2);
        void Refused<TException>(string message, SelectionViews selection, TensorView? from = null, TensorView? bounds = null,
            int count = 2, int longest = 0, AuxBackend backend = AuxBackend.Auto) where TException : Exception
        {
            var error = Assert.ThrowsAny<TException>(
                () => TokenDiversity.Run(from ?? tokens, bounds ?? segments, count, selection, backend, longest));
            Assert.Contains(message, error.Message, StringComparison.Ordinal);
            Assert.All(
                [.. Devices.Read<int>(good.Indices), .. Devices.Read<int>(good.Offsets), .. Devices.Read<int>(good.Slots)],
                value => Assert.Equal(-7, value));
        }

        var none = TensorView.FromPointer((void*)segments.Address, DType.Int32, [0], device: tokens.Device);
        Refused<ArgumentException>("selection.Workspace: missing; uint8[", good with { Workspace = default });
        var small = devices.Keep(DeviceBuffer.Allocate<byte>(64));
        Refused<ArgumentException>("or more is needed on cuda:0", good with { Workspace = small.View(64) });
        Refused<ArgumentException>("selection.Indices: int32[2] is too short for 3 tokens", good, count: 3);
        Refused<ArgumentOutOfRangeException>("longest", good, longest: -1);
        Refused<ArgumentOutOfRangeException>("count", good, count: -1);
        Refused<ArgumentException>(
            "segments: int32[0]", good with { Offsets = none, NaNCounts = default }, bounds: none, count: 0);
        Refused<ArgumentException>("selection.Offsets overlaps selection.Indices", good with { Offsets = good.Indices });
        float* host = stackalloc float[8];
        Refused<ArgumentException>(
            "is not device memory", good, TensorView.FromPointer(host, DType.Float32, [4, 2], device: tokens.Device));
        Refused<BackendUnavailableException>("the tensors are on cuda:0", good, backend: AuxBackend.Reference);
        var error = Assert.Throws<BackendUnavailableException>(() => TokenDiversity.Run(
            new float[8], 2, [0, 4], 1, new() { Indices = new int[1], Offsets = new int[2] }, AuxBackend.Cuda));
        Assert.Contains("the tensors are on cpu", error.Message, StringComparison.Ordinal);
        devices.CheckMargins();
    }

    [Fact]
    public void The_workspace_is_as_large_as_the_library_says()
    {
        foreach (var (tokens, longest) in ((int, int)[])[(0, 0), (1, 1), (577, 577), (64, 9), (10, 1000), (100_000, 600)])
        {
            NativeStatus.Check(Native.TokenDiversityWorkspace(tokens, longest, out var bytes), "test");
            Assert.Equal(bytes, TokenDiversity.WorkspaceBytes(tokens, longest));
        }

        Assert.Equal(TokenDiversity.WorkspaceBytes(300, 300), TokenDiversity.WorkspaceBytes(300));
        Assert.Throws<ArgumentOutOfRangeException>(() => TokenDiversity.WorkspaceBytes(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => TokenDiversity.WorkspaceBytes(1, -1));
    }

    private static SelectionViews Views(Devices devices, int tokens, int segments, int room, int longest = 0, byte fill = 0x7f)
    {
        static int[] Untouched(int count) => [.. Enumerable.Repeat(-7, count)];
        var bytes = TokenDiversity.WorkspaceBytes(tokens, longest);
        TensorView workspace = default;
        if (bytes > 0)
        {
            var buffer = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
            buffer.FillBytes(fill);
            workspace = buffer.View(bytes);
        }

        return new()
        {
            Indices = devices.Add(Untouched(room)), Offsets = devices.Add(Untouched(segments + 1)), Slots = devices.Add(Untouched(tokens)),
            NaNCounts = devices.Add(Untouched(segments)), Workspace = workspace,
        };
    }

    private static int[] Check<T>(int[] segments, int width, int count, int longest) where T : unmanaged
    {
        var tokens = segments[^1];
        var (stored, values) = RandomScores.As<T>(TokenMergeTests.Values(tokens * width, width));
        int[] indices = new int[tokens], offsets = new int[segments.Length], slots = new int[tokens], counts = new int[segments.Length - 1];
        var kept = TokenDiversity.Run(
            values, width, segments, count, new() { Indices = indices, Offsets = offsets, Slots = slots, NaNCounts = counts });

        using var devices = new Devices();
        var selection = Views(devices, tokens, segments.Length - 1, Math.Min(tokens, count * (segments.Length - 1)), longest);
        TokenDiversity.Run(devices.Add(stored, tokens, width), devices.Add(segments), count, selection, longest: longest);
        Assert.Equal(indices[..kept], Devices.Read<int>(selection.Indices)[..kept]);
        Assert.Equal(offsets, Devices.Read<int>(selection.Offsets));
        Assert.Equal(slots, Devices.Read<int>(selection.Slots));
        Assert.Equal(counts, Devices.Read<int>(selection.NaNCounts));
        devices.CheckMargins();
        return indices[..kept];
    }
}
