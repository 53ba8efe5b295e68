using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>KvWindowScores on device memory, against the reference.</summary>
public class KvWindowScoresCudaTests
{
    public KvWindowScoresCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(1, 1, 1, 1)]
    [InlineData(2, 3, 1, 7)]
    [InlineData(1, 2, 5, 5)]
    [InlineData(3, 2, 4, 257)]
    [InlineData(2, 4, 16, 515)]
    public void Agrees_with_the_reference(int heads, int group, int window, int positions)
    {
        var random = new Random(positions);
        float[] logits = [.. Enumerable.Range(0, heads * group * window * positions).Select(_ => random.NextSingle() * 60 - 30)];
        foreach (var causal in (bool[])[false, true])
        {
            var expected = Reference(logits, heads, group, window, positions, causal);

            using var devices = new Devices();
            var scores = devices.Add(new float[expected.Length], heads, positions);
            KvWindowScores.Run(
                devices.Add(logits, heads, group, window, positions), scores, causal, 0.5,
                workspace: Workspace(devices, heads, group, window));

            var actual = Devices.Read<float>(scores);
            for (var i = 0; i < expected.Length; i++)
                Assert.Equal(expected[i], actual[i], Tolerances.KvWindowScoresRelative * expected.Max());
            devices.CheckMargins();
        }
    }

    [Theory]
    [InlineData(1, 1, 1, 1, 1)]
    [InlineData(2, 3, 1, 7, 5)]
    [InlineData(1, 2, 5, 64, 16)]
    [InlineData(3, 2, 4, 130, 9)]
    [InlineData(2, 5, 13, 257, 33)]
    public void From_queries_and_keys_it_agrees_with_the_reference(int heads, int group, int window, int positions, int depth)
    {
        var random = new Random(positions);
        float[] Uniform(int count) => [.. Enumerable.Range(0, count).Select(_ => random.NextSingle() * 4 - 2)];
        // Keys have gaps between them and between heads, where nothing may be read.
        var (step, headStep) = (depth + 3, positions * (depth + 3) + 5);
        var (queries, keys) = (Uniform(heads * group * window * depth), new float[heads * headStep]);
        keys.AsSpan().Fill(float.NaN);
        for (var i = 0; i < heads * positions; i++)
            Uniform(depth).CopyTo(keys, i / positions * headStep + i % positions * step);
        foreach (var causal in (bool[])[false, true])
        {
            using var pinned = new PinnedArrays();
            var expected = new float[heads * positions];
            KvWindowScores.Run(
                pinned.View(queries, heads, group, window, depth),
                pinned.Strided(keys, DType.Float32, 0, [heads, positions, depth], [headStep, step, 1]),
                pinned.View(expected, heads, positions), causal, 0.3, AuxBackend.Reference);

            using var devices = new Devices();
            using var stream = CudaStream.Create();
            var (scores, all) = (devices.Add(new float[expected.Length], heads, positions), devices.Add(keys));
            var (q, k) = (devices.Add(queries, heads, group, window, depth), Strided(all, [heads, positions, depth], [headStep, step, 1]));
            var workspace = Workspace(devices, KvWindowScores.WorkspaceBytes(heads, group, window, positions));
            KvWindowScores.Run(q, k, scores, causal, 0.3, workspace: workspace, stream: stream);
            var actual = Devices.Read<float>(scores, stream);
            for (var i = 0; i < expected.Length; i++)
                Assert.Equal(expected[i], actual[i], Tolerances.KvWindowScoresRelative * expected.Max());
            KvWindowScores.Run(q, k, scores, causal, 0.3, workspace: workspace, stream: stream); // and again, in its own leavings
            Assert.Equal(Devices.Bits(actual), Devices.Bits(Devices.Read<float>(scores, stream)));
            devices.CheckMargins();
        }
    }

    [Fact]
    public void From_queries_and_keys_a_NaN_makes_all_scores_of_its_head_NaN()
    {
        using var devices = new Devices();
        var (queries, keys) = (Enumerable.Repeat(1f, 2 * 2 * 3).ToArray(), new float[2 * 70 * 3]);
        keys[(70 + 69) * 3] = float.NaN; // which only the last query sees
        var scores = devices.Add(new float[2 * 70], 2, 70);
        KvWindowScores.Run(
            devices.Add(queries, 2, 1, 2, 3), devices.Add(keys, 2, 70, 3), scores,
            workspace: Workspace(devices, KvWindowScores.WorkspaceBytes(2, 1, 2, 70)));
        var actual = Devices.Read<float>(scores);
        Assert.All(actual[..69], score => Assert.Equal((1 / 69f + 1 / 70f) / 2, score, 1e-6f));
        Assert.All(actual[70..], score => Assert.True(float.IsNaN(score)));
    }

    [Fact]
    public void What_is_not_a_number_shows_in_its_head_alone()
    {
        foreach (var bad in (float[])[float.NaN, float.PositiveInfinity])
        {
            var logits = new float[2 * 2 * 40];
            logits[80 + 3] = bad;
            using var devices = new Devices();
            var scores = devices.Add(new float[80], 2, 40);
            KvWindowScores.Run(devices.Add(logits, 2, 1, 2, 40), scores, causal: false, workspace: Workspace(devices, 2, 1, 2));
            var actual = Devices.Read<float>(scores);
            Assert.All(actual[..40], score => Assert.Equal(1 / 40f, score, 1e-6f));
            Assert.All(actual[40..], score => Assert.True(float.IsNaN(score)));
        }
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given_and_nothing_is_nothing()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var scores = devices.Add(new float[3], 1, 3);
        KvWindowScores.Run(
            devices.Add(new float[3], 1, 1, 1, 3), scores, workspace: Workspace(devices, 1, 1, 1), stream: stream);
        Assert.All(Devices.Read<float>(scores, stream), score => Assert.Equal(1 / 3f, score, 1e-6f));
        var none = devices.Keep(DeviceBuffer.Allocate<float>(4));
        KvWindowScores.Run(none.ViewAt(0, 0, 1, 1, 4), none.ViewAt(0, 0, 4));
        KvWindowScores.Run(none.ViewAt(0, 0, 1, 1, 4), none.ViewAt(0, 0, 3, 4), none.ViewAt(0, 0, 3));
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var logits = devices.Add(new float[24], 2, 1, 3, 4);
        var scores = devices.Add([.. Enumerable.Repeat(5f, 8)], 2, 4);
        var workspace = Workspace(devices, 2, 1, 3);
        Refused<ArgumentException>("workspace: missing; uint8[48] or more is needed", () => KvWindowScores.Run(logits, scores));
        var small = devices.Keep(DeviceBuffer.Allocate<byte>(47)).View(47);
        Refused<ArgumentException>("uint8[48] or more is needed", () => KvWindowScores.Run(logits, scores, workspace: small));
        Refused<ArgumentException>(
            "scores overlaps logits", () => KvWindowScores.Run(logits, BeginningOf(logits), workspace: workspace));
        Refused<BackendUnavailableException>(
            "are on cuda:0", () => KvWindowScores.Run(logits, scores, backend: AuxBackend.Cpu, workspace: workspace));
        var (queries, keys) = (devices.Add(new float[12], 2, 1, 3, 2), devices.Add(new float[16], 2, 4, 2));
        Refused<ArgumentException>("workspace: missing; uint8[", () => KvWindowScores.Run(queries, keys, scores));
        Refused<ArgumentException>("or more is needed", () => KvWindowScores.Run(queries, keys, scores, workspace: small));
        Refused<BackendUnavailableException>(
            "are on cuda:0", () => KvWindowScores.Run(queries, keys, scores, backend: AuxBackend.Cpu, workspace: workspace));
        Assert.Throws<ArgumentOutOfRangeException>(() => KvWindowScores.WorkspaceBytes(-1, 1, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => KvWindowScores.WorkspaceBytes(1, 1, 1, -1));
        Assert.Throws<ArgumentException>(() => KvWindowScores.WorkspaceBytes(int.MaxValue, 1, 1, int.MaxValue));
        Assert.Equal((0, 0), (KvWindowScores.WorkspaceBytes(0, 1, 1, 9), KvWindowScores.WorkspaceBytes(1, 1, 1, 0)));
        devices.CheckMargins();

        void Refused<TException>(string text, Action action) where TException : Exception
        {
            Assert.Contains(text, Assert.Throws<TException>(action).Message, StringComparison.Ordinal);
            Assert.All(Devices.Read<float>(scores), score => Assert.Equal(5, score));
        }
    }

    private static unsafe TensorView BeginningOf(in TensorView view) =>
        TensorView.FromPointer((void*)view.Address, DType.Float32, [2, 4], device: view.Device, owner: view.Owner);

    private static unsafe TensorView Strided(in TensorView all, ReadOnlySpan<long> shape, ReadOnlySpan<long> strides) =>
        TensorView.FromPointer((void*)all.Address, DType.Float32, shape, strides, all.Device, all.Owner);

    private static TensorView Workspace(Devices devices, int heads, int group, int window) =>
        Workspace(devices, KvWindowScores.WorkspaceBytes(heads, group, window));

    private static TensorView Workspace(Devices devices, long bytes)
    {
        var buffer = devices.Keep(DeviceBuffer.Allocate<byte>(bytes));
        buffer.FillBytes(0xff);
        return buffer.View(buffer.Length);
    }

    private static float[] Reference(float[] logits, int heads, int group, int window, int positions, bool causal)
    {
        using var pinned = new PinnedArrays();
        var scores = new float[heads * positions];
        KvWindowScores.Run(
            pinned.View(logits, heads, group, window, positions), pinned.View(scores, heads, positions), causal, 0.5,
            AuxBackend.Reference);
        return scores;
    }
}
