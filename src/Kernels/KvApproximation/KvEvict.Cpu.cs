using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class KvEvict
{
    // A thread gets at least this many bytes of kept rows: some 20 us of work, which waking it must be worth.
    private const long MinimumBytesPerThread = 256 * 1024;

    // Kept rows are scattered: rows to come are asked for.
    private const int Ahead = 2;

    private static unsafe void RunCpu(in KvEvictWork work)
    {
        using var choice = new KvEvictChoice(work);
        for (var head = 0; head < work.Heads; head++)
            choice.Smooth(work, head);
        choice.Select(work, byReference: false);
        var kept = choice.Kept(work.Heads - 1);
        var bytes = (long)(kept.First + kept.Count) * (work.Cache.Keys.RowBytes + work.Cache.Values.RowBytes);
        var threads = Math.Min(ThreadTeam.Count(bytes, MinimumBytesPerThread), work.Heads);
        if (threads == 1)
            Part(work, choice, 0, work.Heads);
        else
            RunThreads(work, choice, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvEvictWork work, KvEvictChoice choice, int threads) =>
        ThreadTeam.Run(
            threads,
            part => Part(
                work, choice, (int)((long)work.Heads * part / threads), (int)((long)work.Heads * (part + 1) / threads)));

    private static unsafe void Part(in KvEvictWork work, KvEvictChoice choice, int from, int to)
    {
        for (var head = from; head < to; head++)
        {
            var (b, kvHead) = (head / work.Cache.KvHeads, head % work.Cache.KvHeads);
            var (first, kept) = choice.Kept(head);
            var indices = choice.Indices + first;
            Compact(work.Cache.Keys, b, kvHead, indices, choice.Bounds[head], kept);
            Compact(work.Cache.Values, b, kvHead, indices, choice.Bounds[head], kept);
            var numbers = work.Numbers + head * work.NumberPositions;
            for (var j = 0; j < kept && work.Numbers != null; j++)
                numbers[j] = numbers[indices[j] - choice.Bounds[head]];
            work.Lengths[head] = kept;
        }
    }

    // Indices ascend, so a row never moves past one that is still to be read.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void Compact(in KvPlane plane, int b, int kvHead, int* indices, int baseIndex, int kept)
    {
        var bytes = (uint)plane.RowBytes;
        for (var j = 0; j < kept; j++)
        {
            if (j + Ahead < kept)
                Prefetch.Row(plane.Row(b, kvHead, indices[j + Ahead] - baseIndex), bytes);
            var source = plane.Row(b, kvHead, indices[j] - baseIndex);
            var destination = plane.Row(b, kvHead, j);
            if (source != destination)
                Unsafe.CopyBlockUnaligned(destination, source, bytes);
        }
    }
}
