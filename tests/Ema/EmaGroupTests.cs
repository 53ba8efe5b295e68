using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Ema;

public class EmaGroupTests
{
    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Thousands_of_tensors_equal_a_loop_bit_for_bit(Runner runner)
    {
        var random = new Random(3);
        int[] lengths = [.. Enumerable.Range(0, 5000).Select(i => i % 7 == 0 ? 0 : random.Next(1, 90))];
        var sources = lengths.Select(length => Values(random, length)).ToArray();
        var averages = lengths.Select(length => Values(random, length)).ToArray();
        var expected = averages.Select(average => (float[])average.Clone()).ToArray();
        using var group = EmaGroup.Pin(ReadOnly(sources), Writable(averages));

        runner.Run(backend =>
        {
            group.Update(0.9, backend);
            for (var i = 0; i < lengths.Length; i++)
                EmaUpdate.Run(expected[i], sources[i], 0.9, backend);
        });

        Assert.Equal((5000, 1, (long)lengths.Sum()), (group.Count, group.AverageCount, group.ElementCount));
        for (var i = 0; i < lengths.Length; i++)
            Assert.Equal(EmaUpdateTests.Bits(expected[i]), EmaUpdateTests.Bits(averages[i]));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Several_averages_equal_several_runs_bit_for_bit(Runner runner)
    {
        var random = new Random(4);
        int[] lengths = [1, 0, 16_385, 3, 40_000, 32_768, 100_000, 15];
        foreach (var decays in (double[][])[[0.999, 0.9999], [0.9, 0.5, 0.25], [0, 1, 0.99, 0.3], [0.99, 0.999, 0.9999, 0.9, 0.95]])
        {
            var sources = lengths.Select(length => Values(random, length)).ToArray();
            var averages = decays.Select(_ => lengths.Select(length => Values(random, length)).ToArray()).ToArray();
            var expected = averages.Select(list => list.Select(average => (float[])average.Clone()).ToArray()).ToArray();
            using var group = EmaGroup.Pin(ReadOnly(sources), [.. averages.Select(Writable)]);

            runner.Run(backend =>
            {
                group.Update(decays, backend);
                for (var k = 0; k < decays.Length; k++)
                {
                    for (var i = 0; i < lengths.Length; i++)
                        EmaUpdate.Run(expected[k][i], sources[i], decays[k], backend);
                }
            });

            for (var k = 0; k < decays.Length; k++)
            {
                for (var i = 0; i < lengths.Length; i++)
                    Assert.Equal(EmaUpdateTests.Bits(expected[k][i]), EmaUpdateTests.Bits(averages[k][i]));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Sources_of_several_types_mix(Runner runner)
    {
        var (floats, brains, halves) = (new float[] { 1, 2, 3 }, new[] { (BFloat16)4f, (BFloat16)5f }, new[] { (Half)6f });
        var averages = new[] { new float[3], new float[2], new float[1] };
        using var group = EmaGroup.FromViews([View(floats), View(brains), View(halves)], [[.. averages.Select(average => View(average))]]);

        runner.Run(backend => group.Update(0.5, backend));

        Assert.Equal([[0.5f, 1, 1.5f], [2, 2.5f], [3]], averages);
        GC.KeepAlive((floats, brains, halves));
    }

    [Fact]
    public void Sixteen_bit_sources_can_be_pinned()
    {
        var average = new float[3];
        using var group = EmaGroup.Pin<BFloat16>([new[] { (BFloat16)2f, (BFloat16)4f, (BFloat16)6f }], [average]);

        group.Update(0.5);

        Assert.Equal([1, 2, 3], average);
    }

    [Fact]
    public void A_group_of_nothing_does_nothing()
    {
        using var group = EmaGroup.Pin<float>([], Array.Empty<Memory<float>>());

        group.Update(0.5);

        Assert.Equal(0, group.ElementCount);
    }

    [Fact]
    public void Counts_must_agree()
    {
        Refused(
            "averages[1]: 1 tensors for 2 sources",
            () => EmaGroup.Pin<float>([new float[1], new float[1]], [new float[1], new float[1]], [new float[1]]));
        Refused("at least one list", () => EmaGroup.Pin<float>([new float[1]]));
    }

    [Fact]
    public void Shapes_must_agree()
    {
        Refused("sources[1]: shape [4] does not match averages[0][1] [5]",
            () => EmaGroup.Pin<float>([new float[1], new float[4]], [new float[1], new float[5]]));
        Refused("sources[0]: shape [4] does not match averages[0][0] [2, 2]",
            () => EmaGroup.FromViews([View(new float[4])], [[View(new float[4], [2, 2])]]));
    }

    [Fact]
    public void Types_must_be_floating()
    {
        Refused("sources[0]: int64[1] on cpu cannot be averaged", () => EmaGroup.Pin<long>([new long[1]], [new float[1]]));
        Refused(
            "averages[0][0]: float64[1] on cpu; averages are float32",
            () => EmaGroup.FromViews([View(new float[1])], [[View(new double[1])]]));
        Assert.Throws<NotSupportedException>(() => EmaGroup.Pin<decimal>([new decimal[1]], [new float[1]]));
    }

    [Fact]
    public unsafe void Devices_must_agree_and_be_served()
    {
        var cuda = TensorView.FromPointer((void*)4096, DType.Float32, [1], device: new AuxDevice(AuxDeviceKind.Cuda));
        var elsewhere = TensorView.FromPointer((void*)4096, DType.Float32, [1], device: new AuxDevice(AuxDeviceKind.Cuda, 99));
        var besides = TensorView.FromPointer((void*)8192, DType.Float32, [1], device: new AuxDevice(AuxDeviceKind.Cuda, 99));

        Refused("averages[0][0]: float32[1] on cuda:0, but sources[0] is on cpu", () => EmaGroup.FromViews([View(new float[1])], [[cuda]]));
        Refused("averages[0][0]: float32[1] on cuda:99, but sources[0] is on cuda:0", () => EmaGroup.FromViews([cuda], [[elsewhere]]));
        using var group = EmaGroup.FromViews([elsewhere], [[besides]]);
        Assert.Contains( // for want of that device, of a driver, or of the native library
            "EmaUpdate cannot run on the Cuda backend",
            Assert.Throws<BackendUnavailableException>(() => group.Update(0.5)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "the tensors are on cuda:99",
            Assert.Throws<BackendUnavailableException>(() => group.Update(0.5, AuxBackend.Cpu)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public unsafe void Views_must_be_contiguous()
    {
        var memory = new float[8];
        fixed (float* address = memory)
        {
            var strided = TensorView.FromPointer(address, DType.Float32, [2, 2], [3, 1]);
            Refused(
                "sources[0]: float32[2, 2] on cpu with strides [3, 1] is not contiguous",
                () => EmaGroup.FromViews([strided], [[View(new float[4], [2, 2])]]));
            Refused(
                "averages[0][0]: float32[2, 2] on cpu with strides [3, 1] is not contiguous",
                () => EmaGroup.FromViews([View(new float[4], [2, 2])], [[strided]]));
        }
    }

    [Fact]
    public void Averages_share_memory_with_nothing()
    {
        var (a, b) = (new float[8], new float[8]);
        Refused("overlaps", () => EmaGroup.Pin<float>([new float[8], new float[8]], [a, a])); // repeated
        Refused("overlaps", () => EmaGroup.Pin<float>([new float[8]], [a], [a])); // two averages, one memory
        Refused("averages[0][0] overlaps sources[0]", () => EmaGroup.Pin<float>([a], [a]));
        // the average of one is another's source
        Refused("overlaps", () => EmaGroup.Pin<float>([a.AsMemory(0, 6), b], [b.AsMemory(0, 6), new float[8]]));
        Refused("overlaps", () => EmaGroup.Pin<float>([new float[5], new float[5]], [a.AsMemory(0, 5), a.AsMemory(3, 5)]));
        using var tied = EmaGroup.Pin<float>([a, a, a.AsMemory(2, 3)], [new float[8], new float[8], new float[3]]); // sources may
        using var neighbours = EmaGroup.Pin<float>([a.AsMemory(0, 4)], [a.AsMemory(4, 4)]);
    }

    [Fact]
    public void Overlap_is_found_wherever_it_is() =>
        Gen.Select(Gen.Int[0, 60], Gen.Int[0, 6]).Array[2, 12].Where(ranges => ranges.Length % 2 == 0).Sample(ranges =>
        {
            var memory = new float[70];
            var sources = ranges[..(ranges.Length / 2)];
            // An average is as long as its source.
            var averages = ranges[(ranges.Length / 2)..].Select((range, i) => (range.Item1, sources[i].Item2)).ToArray();
            var clash = averages.Where((average, i) =>
                sources.Concat(averages.Where((_, j) => j != i)).Any(other => Overlap(average, other))).Any();
            try
            {
                using var group = EmaGroup.Pin<float>(
                    [.. sources.Select(range => (ReadOnlyMemory<float>)memory.AsMemory(range.Item1, range.Item2))],
                    [.. averages.Select(range => memory.AsMemory(range.Item1, range.Item2))]);
                return !clash;
            }
            catch (ArgumentException)
            {
                return clash;
            }

            static bool Overlap((int At, int Length) left, (int At, int Length) right) =>
                Math.Max(left.At, right.At) < Math.Min(left.At + left.Length, right.At + right.Length);
        });

    [Fact]
    public void Decays_are_checked_before_anything_is_written()
    {
        var averages = new[] { new float[] { 1 }, new float[] { 1 } };
        using var group = EmaGroup.Pin<float>([new float[] { 2 }], [averages[0]], [averages[1]]);

        Refused("1 for 2 averages", () => group.Update(0.5));
        Assert.Equal("decays[1]", Assert.Throws<ArgumentOutOfRangeException>(() => group.Update([0.5, double.NaN])).ParamName);
        Assert.Equal([[1], [1]], averages);
    }

    [Fact]
    public void A_disposed_group_is_refused_and_null_is_named()
    {
        var group = EmaGroup.Pin<float>([new float[1]], [new float[1]]);
        group.Dispose();
        group.Dispose();

        Assert.Throws<ObjectDisposedException>(() => group.Update(0.5));
        Assert.Throws<ArgumentNullException>(() => EmaGroup.Pin<float>(null!, [new float[1]]));
        Assert.Throws<ArgumentNullException>(() => EmaGroup.Pin<float>([new float[1]], null!));
        Assert.Throws<ArgumentNullException>(() => EmaGroup.Pin<float>([new float[1]], [null!]));
        Assert.Equal("averages[1]", Assert.Throws<ArgumentNullException>(
            () => EmaGroup.FromViews([View(new float[1])], [View(new float[1])], null!)).ParamName);
    }

    [Fact]
    public void Updates_allocate_next_to_nothing()
    {
        using var group = EmaGroup.Pin<float>(
            [.. Enumerable.Range(0, 100).Select(_ => (ReadOnlyMemory<float>)new float[50])],
            [.. Enumerable.Range(0, 100).Select(_ => new float[50].AsMemory())]);
        group.Update(0.5);
        var before = GC.GetAllocatedBytesForCurrentThread();

        for (var i = 0; i < 1000; i++)
            group.Update(0.5);

        Assert.InRange((GC.GetAllocatedBytesForCurrentThread() - before) / 1000, 0, 256);
    }

    private static void Refused(string message, Action action) =>
        Assert.Contains(message, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.Ordinal);

    private static float[] Values(Random random, int length) =>
        [.. Enumerable.Range(0, length).Select(_ => (float)(random.NextDouble() - 0.5))];

    private static ReadOnlyMemory<float>[] ReadOnly(float[][] arrays) => [.. arrays.Select(array => (ReadOnlyMemory<float>)array)];

    private static Memory<float>[] Writable(float[][] arrays) => [.. arrays.Select(array => array.AsMemory())];

    // The arrays of these tests are small and short-lived; pinned for good is the simplest way to keep a view of them valid.
    private static unsafe TensorView View<T>(T[] array, long[]? shape = null) where T : unmanaged
    {
        var pin = System.Runtime.InteropServices.GCHandle.Alloc(array, System.Runtime.InteropServices.GCHandleType.Pinned);
        return TensorView.FromPointer((void*)pin.AddrOfPinnedObject(), DTypes.Of<T>(), shape ?? [array.Length], owner: array);
    }
}
