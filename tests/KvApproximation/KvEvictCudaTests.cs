using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;

namespace AuxCore.Tests.KvApproximation;

/// <summary>KvEvict on device memory: the rows, numbers and lengths of the reference, byte by byte.</summary>
public class KvEvictCudaTests
{
    private const int Batch = 2, Heads = 2, Capacity = 24, D = 32, Page = 8;

    // Pages of one head, three a head; in an order of their own.
    private static readonly int[] PageOrder = [7, 0, 2, 5, 11, 1, 4, 3, 6, 10, 9, 8];

    public KvEvictCudaTests() => CudaDriver.Require();

    public static TheoryData<KvFormat, bool> Matrix => new MatrixTheoryData<KvFormat, bool>(
        [.. Enum.GetValues<KvFormat>().Where(format => format != KvFormat.Kivi4)], [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Rows_of_every_format_move_as_in_the_reference(KvFormat format, bool isPaged)
    {
        RequireReference(new() { Budget = Budget.Ratio(0.5), PoolWidth = 5, Sinks = 1, Recent = 3 }, format, isPaged, [24, 0, 13, 23]);
        RequireReference(new() { Budget = Budget.Count(9), HeadFloor = 0.3 }, format, isPaged, [24, 9, 13, 23]);
    }

    [Fact]
    public void Any_budget_keeps_what_the_reference_keeps()
    {
        for (var round = 0; round < 40; round++)
        {
            var random = new Random(round);
            int[] lengths = [.. Enumerable.Range(0, Batch * Heads).Select(_ => random.Next(0, Capacity + 1))];
            var budget = (round % 5) switch
            {
                0 => Budget.Threshold(0.3f),
                1 => Budget.TopP(random.NextDouble()),
                2 => Budget.Outliers(0.5).Within(2, 20),
                3 => Budget.Ratio(1).Within(maximum: random.Next(20)),
                _ => Budget.Ratio(random.NextDouble()),
            };
            var options = new KvEvictOptions
            {
                Budget = budget, PoolWidth = random.Next(3) * 2 + 1, Sinks = random.Next(4), Recent = random.Next(4),
                HeadFloor = round % 5 > 2 ? random.NextDouble() : null,
            };
            RequireReference(options, KvFormat.F32, round % 2 == 0, lengths, round);
        }
    }

    [Fact]
    public void A_head_that_is_shorter_than_the_count_keeps_all_and_lengths_are_held_within_the_cache()
    {
        using var devices = new Devices();
        var cache = new KvCacheViews { Keys = devices.Add(new float[80], 1, 2, 5, 8), Values = devices.Add(new float[80], 1, 2, 5, 8) };
        var lengths = devices.Add([2, 1000], 1, 2);
        KvEvict.Run(
            devices.Add(new float[10], 1, 2, 5), lengths, cache, new() { Budget = Budget.Count(4) },
            workspace: Workspace(devices, 1, 2, 5));
        Assert.Equal([2, 4], Devices.Read<int>(lengths));
        devices.CheckMargins();
    }

    [Fact]
    public void Work_goes_to_the_stream_that_is_given()
    {
        using var devices = new Devices();
        using var stream = CudaStream.Create();
        float[] rows = [.. Enumerable.Range(0, 24).Select(i => (float)(i / 8))];
        var cache = new KvCacheViews { Keys = devices.Add(rows, 1, 1, 3, 8), Values = devices.Add(rows, 1, 1, 3, 8) };
        KvEvict.Run(
            devices.Add([1f, 3, 2], 1, 1, 3), devices.Add([3], 1, 1), cache, new() { Budget = Budget.Count(2) },
            workspace: Workspace(devices, 1, 1, 3), stream: stream);
        Assert.Equal([1, 2, 2], Devices.Read<float>(cache.Keys, stream).Where((_, i) => i % 8 == 0));
    }

    [Fact]
    public void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        float[] threes = [.. Enumerable.Repeat(3f, 80)];
        var cache = new KvCacheViews { Keys = devices.Add(threes, 1, 2, 5, 8), Values = devices.Add(threes, 1, 2, 5, 8) };
        var (scores, lengths) = (devices.Add(new float[10], 1, 2, 5), devices.Add([5, 4], 1, 2));
        var (options, workspace) = (new KvEvictOptions { Budget = Budget.Ratio(0.5) }, Workspace(devices, 1, 2, 5));
        Refused<ArgumentException>("workspace: missing; uint8[", () => KvEvict.Run(scores, lengths, cache, options));
        var small = devices.Keep(DeviceBuffer.Allocate<byte>(64)).View(64);
        Refused<ArgumentException>("or more is needed", () => KvEvict.Run(scores, lengths, cache, options, workspace: small));
        Refused<ArgumentException>("cache.Values overlaps cache.Keys", () => KvEvict.Run(
            scores, lengths, cache with { Values = cache.Keys }, options, workspace: workspace));
        Refused<ArgumentException>("positions overlaps scores", () => KvEvict.Run(
            scores, lengths, cache, options, Same(scores, DType.Int32), workspace: workspace));
        Refused<ArgumentException>("head_dim is 4", () => KvEvict.Run(
            scores, lengths, new() { Keys = devices.Add(new float[40], 1, 2, 5, 4), Values = devices.Add(new float[40], 1, 2, 5, 4) },
            options, workspace: workspace));
        Refused<BackendUnavailableException>(
            "are on cuda:0", () => KvEvict.Run(scores, lengths, cache, options, backend: AuxBackend.Cpu, workspace: workspace));
        Assert.Throws<ArgumentException>(() => KvEvict.WorkspaceBytes(0, 1, 1));
        devices.CheckMargins();

        void Refused<TException>(string text, Action action) where TException : Exception
        {
            Assert.Contains(text, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);
            Assert.Equal(threes, Devices.Read<float>(cache.Keys));
            Assert.Equal([5, 4], Devices.Read<int>(lengths));
        }
    }

    private static unsafe TensorView Same(in TensorView view, DType dtype) =>
        TensorView.FromPointer((void*)view.Address, dtype, view.Shape, device: view.Device, owner: view.Owner);

    private static TensorView Workspace(Devices devices, int batch, int heads, int positions)
    {
        var buffer = devices.Keep(DeviceBuffer.Allocate<byte>(KvEvict.WorkspaceBytes(batch, heads, positions)));
        buffer.FillBytes(0xff);
        return buffer.View(buffer.Length);
    }

    private static void RequireReference(
        KvEvictOptions options, KvFormat format, bool isPaged, int[] lengths, int seed = 1, int[]? counts = null)
    {
        var random = new Random(seed);
        var row = (int)format.ByteCount(D);
        var (keys, values) = (new byte[Batch * Heads * Capacity * row], new byte[Batch * Heads * Capacity * row]);
        random.NextBytes(keys);
        random.NextBytes(values);
        float[] scores = [.. Enumerable.Range(0, Batch * Heads * Capacity)
            .Select(_ => random.Next(20) == 0 ? float.NaN : random.Next(-4, 9) / 4f)];
        int[] numbers = [.. Enumerable.Range(0, scores.Length).Select(i => i * 3)];

        using var devices = new Devices();
        var (k, v) = (OnDevice(keys), OnDevice(values));
        var (n, l) = (devices.Add(numbers, Batch, Heads, Capacity), devices.Add(lengths, Batch, Heads));
        KvEvict.Run(
            devices.Add(scores, Batch, Heads, Capacity), l, Cache(k, v, devices.Add, devices.Add), options, n,
            counts is null ? default : devices.Add(counts, Batch, Heads),
            workspace: Workspace(devices, Batch, Heads, Capacity));

        using var pinned = new PinnedArrays();
        int[] kept = [.. lengths];
        KvEvict.Run(
            pinned.View(scores, Batch, Heads, Capacity), pinned.View(kept, Batch, Heads),
            Cache(pinned.View(keys, Shape()), pinned.View(values, Shape()), pinned.View, pinned.View), options,
            pinned.View(numbers, Batch, Heads, Capacity), counts is null ? default : pinned.View(counts, Batch, Heads),
            AuxBackend.Reference);
        Assert.Equal(kept, Devices.Read<int>(l));
        Assert.Equal(numbers, Devices.Read<int>(n));
        Assert.Equal(keys, Devices.Read<byte>(k));
        Assert.Equal(values, Devices.Read<byte>(v));
        devices.CheckMargins();

        // On a round address, as elements ask.
        TensorView OnDevice(byte[] rows) => devices.Keep(DeviceBuffer.CopyOf<byte>(rows)).View(Shape());

        long[] Shape() => isPaged ? [PageOrder.Length, 1, Page, row] : [Batch, Heads, Capacity, row];

        KvCacheViews Cache(TensorView keyRows, TensorView valueRows, Make<float> floats, Make<int> ints)
        {
            var scales = format == KvFormat.Fp8E4M3 ? floats([1f], 1) : default;
            return new()
            {
                Keys = keyRows, Values = valueRows, KeyFormat = format, ValueFormat = format, KeyScales = scales, ValueScales = scales,
                PageOffsets = isPaged ? ints([0, 3, 6, 9, 12], 5) : default, Pages = isPaged ? ints(PageOrder, PageOrder.Length) : default,
            };
        }
    }

    private delegate TensorView Make<T>(T[] values, params ReadOnlySpan<long> shape);
}
