using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.TokenPruning;

public class TokenMergeArgumentTests
{
    private readonly int[] _slots = [7, 7, 7, 7], _offsets = [7, 7];
    private readonly float[] _metric = [1, 2, 3, 4, 5, 6, 7, 8], _merged = [7, 7, 7, 7], _sizes = [1, 1, 1, 1];

    [Fact]
    public void Matching_refuses_what_does_not_fit()
    {
        Refused<ArgumentOutOfRangeException>("depth", () => TokenMerge.Bipartite(_metric, 0, [0, 4], 1, _slots, _offsets));
        Refused<ArgumentException>("metric: 8 elements do not match shape [4, 3]",
            () => TokenMerge.Bipartite(_metric, 3, [0, 4], 1, _slots, _offsets));
        Refused<ArgumentOutOfRangeException>("merged", () => TokenMerge.Bipartite(_metric, 2, [0, 4], -1, _slots, _offsets));
        Refused<ArgumentOutOfRangeException>("protect", () => TokenMerge.Bipartite(_metric, 2, [0, 4], 1, _slots, _offsets, -1));
        Refused<ArgumentException>("segments: they end at 3", () => TokenMerge.Bipartite(_metric, 2, [0, 3], 1, _slots, _offsets));
        Refused<ArgumentException>("offsets: int32[2]", () => TokenMerge.Bipartite(_metric, 2, [0, 1, 4], 1, _slots, _offsets));
        Refused<ArgumentException>("offsets overlaps slots",
            () => TokenMerge.Bipartite(_metric, 2, [0, 4], 1, _slots, _slots.AsSpan(1, 2)));
        Refused<ArgumentException>("metric: 8 elements", () => TokenMerge.Assign(_metric, 3, [0, 4], _slots));
        Refused<ArgumentException>("targets: 3 elements do not match shape [4]",
            () => TokenMerge.Assign(_metric, 2, [0, 4], _slots, new bool[3]));
        Refused<ArgumentException>("segments[2] is 1", () => TokenMerge.Assign(_metric, 2, [0, 2, 1, 4], _slots));
        Refused<ArgumentOutOfRangeException>("depth", () => TokenMerge.Assign(_metric, 0, [0, 4], _slots));
        int[] bad = [0, -1, -2, 1];
        Refused<ArgumentException>("slots[2] is -2", () => TokenMerge.Assign(_metric, 2, [0, 4], bad));
        Assert.Equal([0, -1, -2, 1], bad);
        Untouched();
    }

    [Fact]
    public void Merging_refuses_what_does_not_fit()
    {
        Refused<ArgumentOutOfRangeException>("width", () => TokenMerge.Run<float>(_metric, 0, [0, 1, 0, 1], _merged));
        Refused<ArgumentException>("merged: 4 elements are not rows of 3", () => TokenMerge.Run<float>(_metric, 3, [0, 1, 0, 1], _merged));
        Refused<ArgumentException>("tokens: 8 elements do not match shape [3, 2]",
            () => TokenMerge.Run<float>(_metric, 2, [0, 1, 0], _merged));
        Refused<ArgumentException>("slots[3] is 2; slots are within -1 and 1",
            () => TokenMerge.Run<float>(_metric, 2, [0, 1, 0, 2], _merged));
        Refused<ArgumentException>("slots[0] is -2", () => TokenMerge.Run<float>(_metric, 2, [-2, 1, 0, 1], _merged));
        Refused<ArgumentException>("sizes: 3 elements", () => TokenMerge.Run<float>(_metric, 2, [0, 1, 0, 1], _merged, new float[3]));
        Refused<ArgumentException>("mergedSizes: 3 elements do not match shape [2]",
            () => TokenMerge.Run<float>(_metric, 2, [0, 1, 0, 1], _merged, _sizes, new float[3]));
        foreach (var size in (float[])[0, -1, float.NaN, float.PositiveInfinity])
        {
            Refused<ArgumentException>("sizes[2] is", () => TokenMerge.Run<float>(_metric, 2, [0, 1, 0, 1], _merged, [1, 1, size, 1]));
            Refused<ArgumentException>("sizes[1] is", () => TokenMerge.Backward<float>(new float[4], 2, [0, 1], _merged, [1, size]));
        }

        Refused<ArgumentException>("merged overlaps tokens", () => TokenMerge.Run<float>(_merged, 2, [0, 0], _merged.AsSpan(0, 2)));
        Refused<ArgumentException>("tokens: int32[4, 1]", () => TokenMerge.Run<int>(new int[4], 1, [0, 0, 0, 0], new int[1]));
        Refused<ArgumentOutOfRangeException>("width", () => TokenMerge.Backward<float>(new float[4], 0, [0, 1], _merged));
        Refused<ArgumentException>("mergedGradient: 4 elements are not rows of 3",
            () => TokenMerge.Backward<float>(new float[4], 3, [0, 1], _merged));
        Refused<ArgumentException>("gradient: 4 elements do not match shape [3, 2]",
            () => TokenMerge.Backward<float>(new float[4], 2, [0, 1, 0], _merged));
        Refused<ArgumentException>("slots[1] is 2", () => TokenMerge.Backward<float>(new float[4], 2, [0, 2], _merged));
        Refused<ArgumentException>("gradient overlaps mergedGradient",
            () => TokenMerge.Backward<float>(_merged.AsSpan(0, 2), 2, [0, 0], _merged));
        Untouched();
    }

    [Fact]
    public void Views_that_do_not_fit_are_named()
    {
        using var scene = new Scene([0], [0], [], null);
        var (metric, segments, slots) = (scene.Tensor(DType.Float32, [4, 2], 1), scene.Integers(0, 4), scene.Integers(0, 1, -1, -1));
        var merged = scene.Tensor(DType.Float32, [2, 2], -1);

        Refused<ArgumentException>("metric: int32[4]", () => TokenMerge.Assign(slots, segments, slots));
        Refused<ArgumentException>("metric: int32[2, 2]", () => TokenMerge.Assign(scene.Tensor(DType.Int32, [2, 2], 1), segments, slots));
        Refused<ArgumentOutOfRangeException>("depth", () => TokenMerge.Assign(scene.Tensor(DType.Float32, [4, 0], 1), segments, slots));
        Refused<ArgumentException>("slots: int32[2]", () => TokenMerge.Assign(metric, segments, segments));
        Refused<ArgumentException>("targets: int32[4]", () => TokenMerge.Assign(metric, segments, slots, slots));
        Refused<ArgumentException>("tokens: int32[4] on cpu, merged", () => TokenMerge.Run(slots, slots, merged));
        Refused<ArgumentException>("merged: float32[2, 2] on cpu, but bfloat16 is needed",
            () => TokenMerge.Run(scene.Tensor(DType.BFloat16, [4, 2], 1), slots, merged));
        Refused<ArgumentException>("merged: float32[2, 2] on cpu does not match shape [2, 3]",
            () => TokenMerge.Run(scene.Tensor(DType.Float32, [4, 3], 1), slots, merged));
        Refused<ArgumentException>("slots: int32[2]", () => TokenMerge.Run(metric, segments, merged));
        Refused<ArgumentException>("sizes: int32[4]", () => TokenMerge.Run(metric, slots, merged, slots));
        Refused<ArgumentException>("mergedSizes: int32[4]", () => TokenMerge.Run(metric, slots, merged, mergedSizes: slots));
        Refused<ArgumentOutOfRangeException>("width",
            () => TokenMerge.Run(scene.Tensor(DType.Float32, [4, 0], 1), slots, scene.Tensor(DType.Float32, [2, 0], 1)));
        Assert.All(Scene.Read(merged), value => Assert.Equal(Scene.Untouched, value));
    }

    [Fact]
    public void Backends_that_are_not_there_give_their_reason()
    {
        foreach (var backend in (AuxBackend[])[AuxBackend.Ilgpu])
        {
            Assert.False(TokenMerge.IsSupported(backend, out var reason));
            Refused<BackendUnavailableException>(reason, () => TokenMerge.Run<float>(_metric, 2, [0, 1, 0, 1], _merged, backend: backend));
            Refused<BackendUnavailableException>(
                reason, () => TokenMerge.Bipartite(_metric, 2, [0, 4], 1, _slots, _offsets, backend: backend));
        }

        Untouched();
    }

    private void Untouched() => Assert.All([.. _slots, .. _offsets, .. _merged], value => Assert.Equal(7, value));

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
