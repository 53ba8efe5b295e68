using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TokenMerge
{
    // A thread gets at least so many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    // Sums of so many elements stay in the first-level cache.
    private const int TileWidth = 2048;

    private static unsafe void RunCpu(in MergeGroups groups)
    {
        using var scratch = new Scratch();
        var begins = scratch.Take<int>(groups.Kept + 2L);
        var members = scratch.Take<int>(Math.Max(1, groups.Tokens));
        groups.List(begins, members);
        var lists = new Lists(begins, members);
        var loop = Loops.For(CpuSimd.Width, groups.DType, backward: false);
        var threads = (int)Math.Min(
            ThreadTeam.Count(groups.Tokens * groups.Width, MinimumElementsPerThread), Math.Max(1, groups.Kept));
        if (threads == 1)
            loop.Run(groups, lists, 0, groups.Kept);
        else
            RunInParallel(groups, lists, loop, groups.Kept, threads);
    }

    private static unsafe void RunBackwardCpu(in MergeGroups groups)
    {
        using var scratch = new Scratch();
        var sizes = scratch.TakeZeroed<float>(Math.Max(1, groups.Kept));
        for (var i = 0L; i < groups.Tokens; i++)
        {
            if (groups.Slots[i] >= 0)
                sizes[groups.Slots[i]] += groups.SizeOf(i); // in index order, as the forward adds them
        }

        var lists = new Lists(sizes);
        var loop = Loops.For(CpuSimd.Width, groups.DType, backward: true);
        var threads = (int)Math.Min(
            ThreadTeam.Count(groups.Tokens * groups.Width, MinimumElementsPerThread), Math.Max(1, groups.Tokens));
        if (threads == 1)
            loop.Run(groups, lists, 0, groups.Tokens);
        else
            RunInParallel(groups, lists, loop, groups.Tokens, threads);
    }

    // Apart from the callers, so that one thread pays for no closure.
    private static void RunInParallel(MergeGroups groups, Lists lists, Loops loop, long rows, int threads) =>
        ThreadTeam.Run(threads, part => loop.Run(groups, lists, rows * part / threads, rows * (part + 1) / threads));

    /// <summary>The members of the slots, for the forward, or the sizes of the slots, for the backward.</summary>
    private readonly unsafe struct Lists
    {
        public Lists(int* begins, int* members)
        {
            Begins = begins;
            Members = members;
        }

        public Lists(float* sizes) => Sizes = sizes;

        public int* Begins { get; }

        public int* Members { get; }

        public float* Sizes { get; }
    }

    /// <summary>The loop over rows of the destination for one vector width and dtype.</summary>
    private readonly unsafe struct Loops(delegate*<in MergeGroups, in Lists, long, long, void> run)
    {
        private readonly delegate*<in MergeGroups, in Lists, long, long, void> _run = run;

        public static Loops For(SimdWidth width, DType type, bool backward) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(type, backward),
            SimdWidth.Bits256 => For<FloatVector8>(type, backward),
            SimdWidth.Bits128 => For<FloatVector4>(type, backward),
            _ => For<FloatVector1>(type, backward),
        };

        public void Run(in MergeGroups groups, in Lists lists, long from, long to) => _run(groups, lists, from, to);

        private static Loops For<TVector>(DType type, bool backward) where TVector : struct, IFloatVector<TVector> => type switch
        {
            DType.Float32 => backward ? new(&SpreadRows<TVector, float>) : new(&MergeRows<TVector, float>),
            DType.BFloat16 => backward ? new(&SpreadRows<TVector, BFloat16>) : new(&MergeRows<TVector, BFloat16>),
            _ => backward ? new(&SpreadRows<TVector, Half>) : new(&MergeRows<TVector, Half>),
        };
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void MergeRows<TVector, T>(in MergeGroups groups, in Lists lists, long from, long to)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        var sums = stackalloc float[TileWidth];
        for (var slot = from; slot < to; slot++)
        {
            var members = new ReadOnlySpan<int>(lists.Members + lists.Begins[slot], lists.Begins[slot + 1] - lists.Begins[slot]);
            var count = 0f;
            foreach (var member in members)
                count += groups.SizeOf(member);
            if (groups.MergedSizes != null)
                groups.MergedSizes[slot] = count;
            var row = (T*)groups.Destination + slot * groups.Width;
            var bytes = (long)groups.Width * sizeof(T);
            if (slot + 1 < to && lists.Begins[slot + 1] < lists.Begins[slot + 2])
            {
                Prefetch.Row((T*)groups.Source + (long)lists.Members[lists.Begins[slot + 1]] * groups.Width, bytes);
                Prefetch.Row(row + groups.Width, bytes);
            }

            if (members.Length == 0)
                NativeMemory.Clear(row, (nuint)bytes);
            else if (members.Length == 1)
                NativeMemory.Copy((T*)groups.Source + (long)members[0] * groups.Width, row, (nuint)bytes);
            else
            {
                for (var first = 0; first < groups.Width; first += TileWidth)
                    Mean<TVector, T>(groups, members, first, Math.Min(TileWidth, groups.Width - first), sums, count, row + first);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void Mean<TVector, T>(
        in MergeGroups groups, ReadOnlySpan<int> members, int first, int width, float* sums, float count, T* row)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        for (var i = 0; i < members.Length; i++)
        {
            var source = (T*)groups.Source + (long)members[i] * groups.Width + first;
            var (size, k) = (groups.SizeOf(members[i]), 0);
            for (var weight = TVector.Broadcast(size); k <= width - TVector.Count; k += TVector.Count)
                Weighted(weight, TVector.Load(source + k), sums + k, begin: i == 0).Store(sums + k);
            for (; k < width; k++)
                Weighted(FloatVector1.Broadcast(size), FloatVector1.Load(source + k), sums + k, begin: i == 0).Store(sums + k);
        }

        var at = 0;
        for (var divisor = TVector.Broadcast(count); at <= width - TVector.Count; at += TVector.Count)
            (TVector.Load(sums + at) / divisor).StoreAs(row + at);
        for (; at < width; at++)
            (FloatVector1.Load(sums + at) / FloatVector1.Broadcast(count)).StoreAs(row + at);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector Weighted<TVector>(TVector weight, TVector value, float* sum, bool begin)
        where TVector : struct, IFloatVector<TVector> =>
        begin ? weight * value : TVector.MultiplyAdd(weight, value, TVector.Load(sum));

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void SpreadRows<TVector, T>(in MergeGroups groups, in Lists lists, long from, long to)
        where TVector : struct, IFloatVector<TVector>
        where T : unmanaged
    {
        for (var token = from; token < to; token++)
        {
            var row = (T*)groups.Destination + token * groups.Width;
            var slot = groups.Slots[token];
            if (slot < 0)
            {
                NativeMemory.Clear(row, (nuint)((long)groups.Width * sizeof(T)));
                continue;
            }

            var source = (T*)groups.Source + (long)slot * groups.Width;
            var (share, k) = (groups.SizeOf(token) / lists.Sizes[slot], 0);
            for (var weight = TVector.Broadcast(share); k <= groups.Width - TVector.Count; k += TVector.Count)
                (weight * TVector.Load(source + k)).StoreAs(row + k);
            for (; k < groups.Width; k++)
                (FloatVector1.Broadcast(share) * FloatVector1.Load(source + k)).StoreAs(row + k);
        }
    }
}
