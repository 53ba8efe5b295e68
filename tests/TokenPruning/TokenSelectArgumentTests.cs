using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.TokenPruning;

public class TokenSelectArgumentTests
{
    private const int Canary = -7;

    private readonly int[] _indices = [Canary, Canary, Canary, Canary], _slots = [Canary, Canary, Canary, Canary];
    private readonly int[] _offsets = [Canary, Canary];
    private readonly float[] _scores = [1, 2, 3, 4];

    [Fact]
    public void Budgets_out_of_range_are_refused_when_they_are_made()
    {
        Refused<ArgumentOutOfRangeException>("tokens", () => Budget.Count(-1));
        foreach (var bad in (double[])[-0.1, 1.1, double.NaN, double.PositiveInfinity])
        {
            Refused<ArgumentOutOfRangeException>("ratio lies within [0, 1]", () => Budget.Ratio(bad));
            Refused<ArgumentOutOfRangeException>("mass lies within [0, 1]", () => Budget.TopP(bad));
        }

        Refused<ArgumentOutOfRangeException>("A threshold is a number", () => Budget.Threshold(float.NaN));
        foreach (var bad in (double[])[-1, double.NaN, double.PositiveInfinity])
            Refused<ArgumentOutOfRangeException>("factor", () => Budget.Outliers(bad));
        Refused<ArgumentOutOfRangeException>("minimum", () => Budget.Ratio(1).Within(-1));
        Refused<ArgumentOutOfRangeException>("maximum", () => Budget.Ratio(1).Within(3, 2));
    }

    [Fact]
    public void A_count_that_a_segment_does_not_have_names_the_segment()
    {
        Refused<ArgumentException>("budget: 3 tokens of each segment, but segment 1 has 1", () => Run([0, 3, 4], Budget.Count(3), 3));
        Refused<ArgumentException>("budget: 5 tokens of each segment, but segment 0 has 4", () => Run([0, 4], Budget.Count(5), 2));
        Refused<ArgumentException>("segment 0 has 0", () => TokenSelect.Capacity([0, 0], Budget.Count(1)));
        Refused<ArgumentException>("budget: a default value", () => Run([0, 4], default, 2));
        Refused<ArgumentException>("budget: a default value", () => TokenSelect.Capacity([0, 4], default));
        Untouched();
    }

    [Fact]
    public void Segments_begin_at_0_ascend_and_end_with_the_tokens()
    {
        Refused<ArgumentException>("segments: int32[0]", () => Run([], Budget.Count(1), 0));
        Refused<ArgumentException>("segments[0] is 1", () => Run([1, 4], Budget.Count(1), 2));
        Refused<ArgumentException>("segments[2] is 2, below 3", () => Run([0, 3, 2, 4], Budget.Count(0), 4));
        Refused<ArgumentException>("segments: they end at 3, but there are 4 tokens", () => Run([0, 3], Budget.Count(1), 2));
        Refused<ArgumentException>("segments: they end at 5, but there are 4 tokens", () => Run([0, 5], Budget.Count(1), 2));
        Refused<ArgumentException>("segments[1] is -1, below 0", () => TokenSelect.Capacity([0, -1], Budget.Count(0)));
        Refused<ArgumentException>("segments: int32[0]", () => TokenSelect.Capacity([], Budget.Count(0)));
        Untouched();
    }

    [Fact]
    public void Outputs_have_the_right_lengths()
    {
        Refused<ArgumentException>("selection.Indices: int32[2] is too short; the budget may keep 3", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices.AsSpan(0, 2), Offsets = _offsets, Slots = _slots }));
        Refused<ArgumentException>("selection.Offsets: 1 elements do not match shape [2]", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _offsets.AsSpan(1), Slots = _slots }));
        Refused<ArgumentException>("selection.Slots: 3 elements do not match shape [4]", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _offsets, Slots = _slots.AsSpan(1) }));
        Refused<ArgumentException>("selection.NaNCounts: 2 elements do not match shape [1]", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _offsets, NaNCounts = new int[2] }));
        Refused<ArgumentException>("always: 3 elements do not match shape [4]", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _offsets }, new bool[3]));
        Refused<ArgumentException>("always: 3 elements", () => TokenSelect.Capacity([0, 4], Budget.Count(3), new bool[3]));
        Untouched();
    }

    [Fact]
    public void Outputs_share_memory_with_nothing()
    {
        Refused<ArgumentException>("selection.Slots overlaps selection.Indices", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _offsets, Slots = _indices }));
        Refused<ArgumentException>("selection.Offsets overlaps selection.Indices", () => TokenSelect.Run(
            _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _indices.AsSpan(2) }));
        var scores = (float[])_scores.Clone();
        Refused<ArgumentException>("selection.Indices overlaps scores", () => TokenSelect.Run(
            scores, [0, 4], Budget.Count(3),
            new() { Indices = System.Runtime.InteropServices.MemoryMarshal.Cast<float, int>(scores.AsSpan()), Offsets = _offsets }));
        Assert.Equal(_scores, scores);
        Untouched();
    }

    [Fact]
    public void Devices_do_not_run_on_host_memory()
    {
        foreach (var backend in (AuxBackend[])[AuxBackend.Cuda, AuxBackend.Ilgpu])
        {
            Refused<BackendUnavailableException>("TokenSelect", () => TokenSelect.Run(
                _scores, [0, 4], Budget.Count(3), new() { Indices = _indices, Offsets = _offsets }, backend: backend));
        }

        Untouched();
    }

    [Fact]
    public unsafe void Views_give_the_same_and_bad_ones_are_named()
    {
        fixed (float* s = _scores)
        fixed (int* indices = _indices, offsets = _offsets, slots = _slots, bounds = (int[])[0, 4], counts = new int[1])
        fixed (bool* always = (bool[])[true, false, false, false])
        {
            var scores = TensorView.FromPointer(s, DType.Float32, [4]);
            var segments = TensorView.FromPointer(bounds, DType.Int32, [2]);
            var kept = TensorView.FromPointer(always, DType.Bool, [4]);
            var all = new SelectionViews
            {
                Indices = TensorView.FromPointer(indices, DType.Int32, [3]),
                Offsets = TensorView.FromPointer(offsets, DType.Int32, [2]),
                Slots = TensorView.FromPointer(slots, DType.Int32, [4]),
                NaNCounts = TensorView.FromPointer(counts, DType.Int32, [1]),
            };
            var matrix = TensorView.FromPointer(s, DType.Float32, [2, 2]);
            var strided = TensorView.FromPointer(s, DType.Float32, [2], [2]);
            var integers = TensorView.FromPointer(s, DType.Int32, [4]);
            var far = TensorView.FromPointer((void*)4096, DType.Float32, [4], device: new(AuxDeviceKind.Cuda));

            Refused<ArgumentException>("scores: float32[2, 2]", () => TokenSelect.Run(matrix, segments, Budget.Count(2), all));
            Refused<ArgumentException>("scores: int32[4]", () => TokenSelect.Run(integers, segments, Budget.Count(2), all));
            Refused<ArgumentException>("is not contiguous", () => TokenSelect.Run(strided, segments, Budget.Count(2), all));
            Refused<ArgumentException>("segments: float32[4]", () => TokenSelect.Run(scores, scores, Budget.Count(2), all));
            Refused<ArgumentException>("always: float32[4]", () => TokenSelect.Run(scores, segments, Budget.Count(2), all, scores));
            Refused<ArgumentException>("segments: int32[2] on cpu, but the other tensors are on cuda:0",
                () => TokenSelect.Run(far, segments, Budget.Count(2), all));
            Refused<ArgumentException>("selection.Offsets: int32[3]",
                () => TokenSelect.Run(scores, segments, Budget.Count(2), all with { Offsets = all.Indices }));
            Refused<ArgumentException>("selection.Slots: int32[3]",
                () => TokenSelect.Run(scores, segments, Budget.Count(2), all with { Slots = all.Indices }));
            Refused<ArgumentException>("selection.NaNCounts: int32[2]",
                () => TokenSelect.Run(scores, segments, Budget.Count(2), all with { NaNCounts = all.Offsets }));
            Refused<ArgumentException>("selection.Indices: float32[4]",
                () => TokenSelect.Run(scores, segments, Budget.Count(2), all with { Indices = scores }));
            Untouched();

            TokenSelect.Run(scores, segments, Budget.Count(3), all, kept);
        }

        Assert.Equal([0, 2, 3, Canary], _indices);
        Assert.Equal([0, 3], _offsets);
        Assert.Equal([0, -1, 1, 2], _slots);
    }

    private void Run(int[] segments, Budget budget, int offsets) => TokenSelect.Run(
        _scores, segments, budget, new() { Indices = _indices, Offsets = offsets == 2 ? _offsets : new int[offsets], Slots = _slots });

    private void Untouched() => Assert.All([.. _indices, .. _offsets, .. _slots], value => Assert.Equal(Canary, value));

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
}
