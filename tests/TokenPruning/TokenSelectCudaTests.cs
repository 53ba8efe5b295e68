using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>TokenSelect on device memory: indices, offsets, slots and counts of the CPU backend, number by number.</summary>
public class TokenSelectCudaTests
{
    private const int Canary = -77;

    private static readonly int[][] Segmentations =
        [[0], [0, 0], [0, 1], [0, 3, 3, 10], [0, 31], [0, 32], [0, 33, 97], [0, 7, 135, 135, 700], [0, 1023, 2047, 3072], [0, 5000]];

    private static readonly Budget[] Budgets =
    [
        Budget.Count(0), Budget.Ratio(0), Budget.Ratio(0.11), Budget.Ratio(0.5), Budget.Ratio(1), Budget.Threshold(0),
        Budget.Threshold(-0f), Budget.Threshold(0.25f), Budget.Threshold(float.NegativeInfinity), Budget.Threshold(float.PositiveInfinity),
        Budget.TopP(0), Budget.TopP(0.3), Budget.TopP(0.9), Budget.TopP(1), Budget.Outliers(0), Budget.Outliers(), Budget.Outliers(1e300),
        Budget.Threshold(0.25f).Within(2, 9), Budget.TopP(0.5).Within(3, 40), Budget.Ratio(0.5).Within(5, 20),
    ];

    public TokenSelectCudaTests() => CudaDriver.Require();

    [Fact]
    public void Is_the_Cpus_selection()
    {
        foreach (var segments in Segmentations)
        {
            for (var seed = 0; seed < 4; seed++)
            {
                var scores = RandomScores.Of(segments[^1], seed);
                foreach (var budget in Budgets.Where((_, i) => scores.Length < 1000 || i % 4 == seed))
                {
                    Check<float>(scores, segments, budget, seed);
                    if (segments.Length > 4)
                    {
                        Check<BFloat16>(scores, segments, budget, seed);
                        Check<Half>(scores, segments, budget, seed);
                    }
                }
            }
        }
    }

    [Fact]
    public void Every_count_from_none_to_all_is_a_beginning_of_the_order()
    {
        foreach (var length in (int[])[1, 5, 33, 64])
        {
            for (var count = 0; count <= length; count++)
                Check<float>(RandomScores.Of(length, length % 4), [0, length], Budget.Count(count), count);
        }
    }

    [Fact]
    public void Long_segments_of_few_values_and_sorted_ones_are_no_exception()
    {
        const int Length = 5001;
        float[][] all =
        [
            [.. Enumerable.Repeat(0.5f, Length)], [.. Enumerable.Range(0, Length).Select(i => (float)i)],
            [.. Enumerable.Range(0, Length).Select(i => (float)-i)], [.. Enumerable.Range(0, Length).Select(i => (float)(i % 3))],
            [.. Enumerable.Repeat(float.NaN, Length)], [.. Enumerable.Range(0, Length).Select(i => MathF.ScaleB(1, -i % 140))],
        ];
        foreach (var scores in all)
        {
            foreach (var count in (int[])[0, 1, 2223, Length - 1, Length])
                Check<float>(scores, [0, Length], Budget.Count(count), 0);
            Check<float>(scores, [0, Length], Budget.TopP(0.5), 1);
            Check<float>(scores, [0, Length], Budget.Outliers(), 1);
        }
    }

    [Fact]
    public void Any_segments_and_budget_give_the_Cpus_selection() => Gen
        .Select(Gen.Int[0, 300].Array[1, 5], Gen.Int[0, 999], Gen.Double[0, 1], Gen.Int[1, 4])
        .Sample(
            (lengths, seed, value, rule) =>
            {
                int[] segments = [0, .. lengths.Select((_, b) => lengths[..(b + 1)].Sum())];
                var budget = rule switch
                {
                    1 => Budget.Ratio(value),
                    2 => Budget.TopP(value),
                    3 => Budget.Outliers(value),
                    _ => Budget.Threshold((float)value),
                };
                Check<float>(RandomScores.Of(segments[^1], seed), segments, budget, seed);
            },
            iter: 30);

    [Fact]
    public void A_segment_with_fewer_tokens_than_the_count_keeps_all_and_nothing_is_written_beyond_the_capacity()
    {
        using var devices = new Devices();
        var indices = devices.Add([Canary, Canary, Canary, Canary]);
        var offsets = devices.Add(new int[3]);
        TokenSelect.Run(
            devices.Add(new float[] { 1, 2, 3, 4, 5 }), devices.Add([0, 1, 5]), Budget.Count(3),
            new() { Indices = indices, Offsets = offsets });
        Assert.Equal([0, 2, 3, 4], Devices.Read<int>(indices));
        Assert.Equal([0, 1, 4], Devices.Read<int>(offsets));

        var few = devices.Add([Canary, Canary]);
        TokenSelect.Run(
            devices.Add(new float[] { 1, 2, 3, 4, 5 }), devices.Add([0, 1, 5]), Budget.Count(3),
            new() { Indices = few, Offsets = offsets });
        Assert.Equal([0, 2], Devices.Read<int>(few));

        // Segments that are none are held within the tokens.
        TokenSelect.Run(
            devices.Add(new float[] { 1, 2, 3 }), devices.Add([-5, 2, 99]), Budget.Ratio(1),
            new() { Indices = indices, Offsets = offsets });
        Assert.Equal([0, 1, 2], Devices.Read<int>(indices)[..3]);
        devices.CheckMargins();
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        var selection = new SelectionViews { Indices = devices.Add(new int[2]), Offsets = devices.Add(new int[2]) };
        TokenSelect.Run(devices.Add(new float[] { 1, 4, 3 }), devices.Add([0, 3]), Budget.Count(2), selection, stream: stream);
        Assert.Equal([1, 2], Devices.Read<int>(selection.Indices, stream));
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (scores, segments) = (devices.Add(new float[] { 1, 2, 3, 4 }), devices.Add([0, 2, 4]));
        var good = new SelectionViews
        {
            Indices = devices.Add([Canary, Canary, Canary, Canary]), Offsets = devices.Add([Canary, Canary, Canary]),
            Slots = devices.Add([Canary, Canary, Canary, Canary]), NaNCounts = devices.Add([Canary, Canary]),
        };
        void Refused<TException>(string message, Action action) where TException : Exception
        {
            Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
            foreach (var view in (TensorView[])[good.Indices, good.Offsets, good.Slots, good.NaNCounts])
                Assert.All(Devices.Read<int>(view), value => Assert.Equal(Canary, value));
        }

        Refused<ArgumentException>("budget: a default value", () => TokenSelect.Run(scores, segments, default, good));
        Refused<ArgumentException>("selection.Workspace: missing; uint8[32]",
            () => TokenSelect.Run(scores, segments, Budget.TopP(0.5), good));
        var small = devices.Keep(DeviceBuffer.Allocate<byte>(31)).View(31);
        Refused<ArgumentException>("uint8[32] or more is needed",
            () => TokenSelect.Run(scores, segments, Budget.TopP(0.5), good with { Workspace = small }));
        Refused<ArgumentException>("selection.Slots overlaps selection.Indices",
            () => TokenSelect.Run(scores, segments, Budget.Count(1), good with { Slots = good.Indices }));
        Refused<ArgumentException>("segments: int32[0]", () => TokenSelect.Run(
            scores, devices.Add(Array.Empty<int>()), Budget.Count(1),
            good with { Offsets = devices.Add(Array.Empty<int>()), NaNCounts = default }));
        float* host = stackalloc float[4];
        var said = TensorView.FromPointer(host, DType.Float32, [4], device: scores.Device);
        Refused<ArgumentException>("is not device memory", () => TokenSelect.Run(said, segments, Budget.Count(1), good));
        Refused<BackendUnavailableException>("the tensors are on cuda:0",
            () => TokenSelect.Run(scores, segments, Budget.Count(1), good, backend: AuxBackend.Cpu));
        Refused<BackendUnavailableException>("the tensors are on cpu", () => TokenSelect.Run(
            [1f, 2f], [0, 2], Budget.Count(1), new() { Indices = new int[1], Offsets = new int[2] }, backend: AuxBackend.Cuda));
        devices.CheckMargins();
    }

    private static void Check<T>(float[] given, int[] segments, Budget budget, int seed) where T : unmanaged
    {
        var (stored, scores) = RandomScores.As<T>(given);
        bool[] always = seed % 2 == 0 ? [] : [.. scores.Select((_, i) => i % 37 == seed)];
        var capacity = TokenSelect.Capacity(segments, budget, always);
        int[] indices = [.. Enumerable.Repeat(Canary, capacity)];
        var (offsets, slots, counts) = (new int[segments.Length], new int[scores.Length], new int[segments.Length - 1]);
        var kept = TokenSelect.Run(
            scores, segments, budget, new() { Indices = indices, Offsets = offsets, Slots = slots, NaNCounts = counts }, always);

        using var devices = new Devices();
        var workspace = devices.Keep(DeviceBuffer.Allocate<byte>(TokenSelect.WorkspaceBytes(segments.Length - 1)));
        workspace.FillBytes(0x7f);
        var selection = new SelectionViews
        {
            Indices = devices.Add([.. Enumerable.Repeat(Canary, capacity)]),
            Offsets = devices.Add([.. Enumerable.Repeat(Canary, segments.Length)]),
            Slots = seed == 3 ? default : devices.Add(new int[scores.Length]),
            NaNCounts = seed == 2 ? default : devices.Add(new int[segments.Length - 1]),
            Workspace = workspace.Length == 0 ? default : workspace.View(workspace.Length),
        };
        TokenSelect.Run(
            devices.Add(stored), devices.Add(segments), budget, selection, always.Length == 0 ? default : devices.Add(always));

        Assert.Equal(indices, Devices.Read<int>(selection.Indices));
        Assert.Equal(offsets, Devices.Read<int>(selection.Offsets));
        Assert.Equal(kept, offsets[^1]);
        if (seed != 3)
            Assert.Equal(slots, Devices.Read<int>(selection.Slots));
        if (seed != 2)
            Assert.Equal(counts, Devices.Read<int>(selection.NaNCounts));
        devices.CheckMargins();
    }
}
