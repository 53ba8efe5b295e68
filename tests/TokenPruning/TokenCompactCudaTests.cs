using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;
using AuxCore.Tests.SuccessorMeasure;
using CsCheck;

namespace AuxCore.Tests.TokenPruning;

/// <summary>TokenCompact on device memory: the CPU backend's bytes, forwards, in place and backwards.</summary>
public class TokenCompactCudaTests
{
    public TokenCompactCudaTests() => CudaDriver.Require();

    [Fact]
    public void Rows_of_every_width_are_the_Cpus()
    {
        foreach (var width in (int[])[1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130, 520])
        {
            foreach (var tokens in (int[])[0, 1, 2, 37, 150])
            {
                Check<float>(width, tokens);
                Check<BFloat16>(width, tokens);
                Check<long>(width, tokens);
                Check<byte>(width, tokens);
            }
        }
    }

    [Fact]
    public void All_layers_positions_and_labels_move_in_one_launch_and_in_place()
    {
        const int Batch = 3, Longest = 20, Heads = 2, Depth = 8, Room = 25;
        int[] segments = [0, 20, 20, 37], offsets = [0, 4, 4, 13];
        int[] indices = [0, 5, 6, 19, 20, 21, 22, 25, 26, 30, 33, 35, 36];
        using var devices = new Devices();
        var (bounds, selection) = (devices.Add(segments), new SelectionViews
        {
            Indices = devices.Add(indices), Offsets = devices.Add(offsets),
        });
        foreach (var clearRest in (bool[])[false, true])
        {
            List<(TokenRows Rows, Action Check)> all =
            [
                Pair<BFloat16>([Batch, Longest, 7], 0, 1, 9), Pair<float>([37, 7], -1, 0, 14), Pair<long>([3, Batch, Longest], 1, 2, 10),
                Pair<int>([3, 37], -1, 1, 13), Pair<long>([Batch, Longest], 0, 1, 9), Pair<Half>([Longest, Batch, 6], 1, 0, 11),
            ];
            for (var layer = 0; layer < 20; layer++)
                all.Add(Pair<Half>([Batch, Heads, Longest, Depth], 0, 2, 12));
            var launches = CudaDriver.IsStandin ? CudaDriver.Launches : 0;
            TokenCompact.Run([.. all.Select(pair => pair.Rows)], bounds, selection);
            if (CudaDriver.IsStandin)
                Assert.Equal(launches + 1, CudaDriver.Launches);
            all.ForEach(pair => pair.Check());

            (TokenRows, Action) Pair<T>(long[] shape, int segment, int token, int kept) where T : unmanaged =>
                this.Pair<T>(devices, shape, segment, token, kept, clearRest, segments, offsets, indices);
        }

        // In place, in views of caches with room for more: nothing but the rows that are kept changes.
        List<(DeviceBuffer<Half> Cache, Half[] Before)> caches = [];
        for (var layer = 0; layer < 10; layer++)
        {
            var values = Scene.Random<Half>(Batch * Heads * Room * Depth, layer);
            caches.Add((devices.Keep(DeviceBuffer.CopyOf<Half>(values)), values));
        }

        TokenCompact.Run([.. caches.Select(cache => InPlace(cache.Cache.View(Batch, Heads, Room, Depth)))], bounds, selection);
        foreach (var (cache, before) in caches)
        {
            var expected = (Half[])before.Clone();
            Host(expected, view => TokenCompact.Run(
                [InPlace(view)], HostInts(segments), new() { Indices = HostInts(indices), Offsets = HostInts(offsets) }));
            Assert.Equal(Bytes(expected), Bytes(cache.ToArray()));
        }

        devices.CheckMargins();

        static unsafe TokenRows InPlace(in TensorView cache)
        {
            long[] shape = [Batch, Heads, Longest, Depth];
            var view = TensorView.FromPointer(
                (void*)cache.Address, cache.DType, shape, [Heads * Room * Depth, Room * Depth, Depth, 1], cache.Device);
            return TokenRows.Padded(view, view, 0, 2);
        }

        static unsafe void Host(Half[] memory, Action<TensorView> action)
        {
            fixed (Half* at = memory)
                action(TensorView.FromPointer(at, DType.Float16, [Batch, Heads, Room, Depth]));
        }
    }

    [Fact]
    public void More_tensors_than_a_table_has_room_for_take_several_launches()
    {
        using var devices = new Devices();
        var selection = new SelectionViews { Indices = devices.Add([1, 2]), Offsets = devices.Add([0, 2]) };
        List<(TensorView Destination, int Seed)> all = [];
        List<TokenRows> tensors = [];
        for (var i = 0; i < 340; i++)
        {
            int[] source = [i, i + 1, i + 2];
            all.Add((devices.Add(new int[2], 2), i));
            tensors.Add(TokenRows.Ragged(devices.Add(source, 3), all[^1].Destination));
        }

        for (var width = 2; width < 15; width++)
        {
            all.Add((devices.Add(new int[2 * width], 2, width), -width));
            tensors.Add(TokenRows.Ragged(devices.Add([.. Enumerable.Range(0, 3 * width)], 3, width), all[^1].Destination));
        }

        TokenCompact.Run([.. tensors], devices.Add([0, 3]), selection);
        foreach (var (destination, seed) in all)
            Assert.Equal(seed < 0 ? Enumerable.Range(-seed, -2 * seed) : [seed + 1, seed + 2], Devices.Read<int>(destination));
        devices.CheckMargins();
    }

    [Fact]
    public void A_selection_that_is_none_stays_within_the_tensors()
    {
        using var devices = new Devices();
        var source = devices.Add(new float[] { 1, 2, 3 }, 3);
        foreach (var (offsets, indices, expected) in ((int[], int[], float[])[])
            [([0, 3], [2, 7, -1], [3, 0, 0]), ([0, 99], [0, 1, 2], [1, 2, 3]), ([0, -4], [0, 1, 2], [9, 9, 9])])
        {
            var destination = devices.Add(new float[] { 9, 9, 9 }, 3);
            TokenCompact.Run([TokenRows.Ragged(source, destination)], devices.Add([0, 3]),
                new() { Indices = devices.Add(indices), Offsets = devices.Add(offsets) });
            Assert.Equal(expected, Devices.Read<float>(destination));
        }

        devices.CheckMargins();
    }

    [Fact]
    public unsafe void What_does_not_fit_is_refused_before_anything_is_written()
    {
        using var devices = new Devices();
        var (source, destination) = (devices.Add(new float[12], 6, 2), devices.Add(new float[] { 9, 9, 9, 9, 9, 9 }, 3, 2));
        var (segments, selection) = (devices.Add([0, 6]), new SelectionViews
        {
            Indices = devices.Add([0, 1, 2]), Offsets = devices.Add([0, 3]), Slots = devices.Add(new int[6]),
        });
        void Refused<TException>(string message, params TokenRows[] tensors) where TException : Exception
        {
            var error = Assert.ThrowsAny<TException>(() => TokenCompact.Run(tensors, segments, selection));
            Assert.Contains(message, error.Message, StringComparison.Ordinal);
            Assert.All(Devices.Read<float>(destination), value => Assert.Equal(9, value));
        }

        Refused<ArgumentException>("overlaps", TokenRows.Ragged(source, destination), TokenRows.Ragged(source, destination));
        float* host = stackalloc float[6];
        var said = TensorView.FromPointer(host, DType.Float32, [3, 2], device: source.Device);
        Refused<ArgumentException>("tensors[1].destination: 0x", TokenRows.Ragged(source, destination), TokenRows.Ragged(source, said));
        var many = TensorView.FromPointer((void*)source.Address, DType.Float32, [1, 1, 1, 1, 6, 2], device: source.Device);
        var few = TensorView.FromPointer((void*)destination.Address, DType.Float32, [1, 1, 1, 1, 3, 2], device: source.Device);
        Refused<ArgumentException>("tensors[0]: 4 dimensions before a token's row", TokenRows.Ragged(many, few, 4));
        Assert.Contains("overlaps", Assert.Throws<ArgumentException>(() => TokenCompact.Backward(
            [TokenRows.Ragged(source, source)], segments, selection)).Message, StringComparison.Ordinal);
        Assert.Contains("the tensors are on cuda:0", Assert.Throws<BackendUnavailableException>(() => TokenCompact.Run(
            [TokenRows.Ragged(source, destination)], segments, selection, AuxBackend.Cpu)).Message, StringComparison.Ordinal);
        Assert.Contains("the tensors are on cpu", Assert.Throws<BackendUnavailableException>(() => TokenCompact.Run<float>(
            new float[4], 2, [1], new float[2], AuxBackend.Cuda)).Message, StringComparison.Ordinal);
        devices.CheckMargins();
    }

    [Fact]
    public void Any_selection_gives_the_Cpus_bytes() => Gen.Select(Gen.Int[0, 90], Gen.Int[1, 40], Gen.Double[0, 1]).Sample(
        (tokens, width, ratio) => Check<float>(width, tokens, ratio), iter: 30);

    // The destination's bytes are the CPU's, whatever it is that they stand for.
    private unsafe (TokenRows Rows, Action Check) Pair<T>(
        Devices devices, long[] shape, int segment, int token, int kept, bool clearRest, int[] segments, int[] offsets, int[] indices)
        where T : unmanaged
    {
        long[] few = [.. shape];
        few[token] = kept;
        static int Count(long[] sizes) => (int)sizes.Aggregate(1L, (product, size) => product * size);
        var (source, expected) = (Scene.Random<T>(Count(shape), (int)shape[^1]), Scene.Random<T>(Count(few), 3));
        var (from, to) = (devices.Add(source, shape), devices.Add(expected, few));
        TokenRows Rows(in TensorView a, in TensorView b) => segment < 0
            ? TokenRows.Ragged(a, b, token, clearRest) : TokenRows.Padded(a, b, segment, token, clearRest);
        fixed (T* a = source, b = expected)
        {
            TokenCompact.Run(
                [Rows(TensorView.FromPointer(a, DTypes.Of<T>(), shape), TensorView.FromPointer(b, DTypes.Of<T>(), few))],
                HostInts(segments), new() { Indices = HostInts(indices), Offsets = HostInts(offsets) });
        }

        return (Rows(from, to), () => Assert.Equal(Bytes(expected), Bytes(Devices.Read<T>(to))));
    }

    private static unsafe TensorView HostInts(int[] values)
    {
        var pinned = GC.AllocateUninitializedArray<int>(Math.Max(1, values.Length), pinned: true);
        values.CopyTo(pinned, 0);
        fixed (int* at = pinned)
            return TensorView.FromPointer(at, DType.Int32, [values.Length], owner: pinned);
    }

    private static byte[] Bytes<T>(T[] values) where T : unmanaged =>
        System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray();

    private static void Check<T>(int width, int tokens, double ratio = 0.3) where T : unmanaged
    {
        float[] scores = [.. Enumerable.Range(0, tokens).Select(i => i * 7919 % 101)];
        int[] segments = [0, tokens], slots = new int[tokens], offsets = new int[2];
        var indices = new int[TokenSelect.Capacity(segments, Budget.Ratio(ratio))];
        TokenSelect.Run(scores, segments, Budget.Ratio(ratio), new() { Indices = indices, Offsets = offsets, Slots = slots });
        var source = Scene.Random<T>(tokens * width, width);
        var (kept, gradient) = (new T[indices.Length * width], new T[source.Length]);
        TokenCompact.Run<T>(source, width, indices, kept);
        TokenCompact.Backward<T>(kept, width, slots, gradient);

        using var devices = new Devices();
        var selection = new SelectionViews { Indices = devices.Add(indices), Offsets = devices.Add(offsets), Slots = devices.Add(slots) };
        TensorView Add(T[] values, int rows) => devices.Add(values, rows, width);
        var bounds = devices.Add(segments);
        var (all, few, spread) = (Add(source, tokens), Add(Scene.Random<T>(kept.Length, 5), indices.Length),
            Add(Scene.Random<T>(source.Length, 6), tokens));
        var whole = devices.Keep(DeviceBuffer.CopyOf<T>(source)); // on an address where the widest accesses can be
        var wide = devices.Keep(DeviceBuffer.Allocate<T>(kept.Length));
        TokenCompact.Run(
            [TokenRows.Ragged(all, few), TokenRows.Ragged(whole.View(tokens, width), wide.View(indices.Length, width))], bounds, selection);
        Assert.Equal(Bytes(kept), Bytes(Devices.Read<T>(few)));
        Assert.Equal(Bytes(kept), Bytes(wide.ToArray()));

        TokenCompact.Backward([TokenRows.Ragged(few, spread)], bounds, selection);
        Assert.Equal(Bytes(gradient), Bytes(Devices.Read<T>(spread)));

        T[] inPlace = [.. kept, .. source[kept.Length..]];
        TokenCompact.Run(
            [TokenRows.Ragged(all, all), TokenRows.Ragged(whole.View(tokens, width), whole.View(tokens, width))], bounds, selection);
        Assert.Equal(Bytes(inPlace), Bytes(Devices.Read<T>(all)));
        Assert.Equal(Bytes(inPlace), Bytes(whole.ToArray()));
        devices.CheckMargins();
    }
}
