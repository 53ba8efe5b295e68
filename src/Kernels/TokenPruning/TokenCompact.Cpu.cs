using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace AuxCore.Kernels;

public static partial class TokenCompact
{
    // A thread gets at least so many bytes: some 20 us of work, which waking it must be worth.
    private const long MinimumBytesPerThread = 256 * 1024;

    // From so many bytes on, what is written does not stay in the cache anyhow, and stores go past it: lines are not read only to be
    // overwritten.
    private const long StreamedBytes = 8 * 1024 * 1024;

    private const int VectorBytes = 32;

    private static unsafe void RunCpu(in TokenCompactWork work)
    {
        var bytes = 0L;
        foreach (var item in work.Items)
            bytes += item.RowBytes * work.KeptRows(item);
        var streamed = bytes >= StreamedBytes && Sse.IsSupported;
        var threads = ThreadTeam.Count(bytes, MinimumBytesPerThread);
        if (threads == 1)
            Part(work, streamed, 0, 1);
        else
            PartsInParallel(work, streamed, threads);
    }

    private static unsafe void RunBackwardCpu(in TokenCompactWork work)
    {
        var bytes = 0L;
        foreach (var item in work.Items)
            bytes += item.RowBytes * item.Strips * item.DestinationTokens;
        var streamed = bytes >= StreamedBytes && Sse.IsSupported;
        var threads = ThreadTeam.Count(bytes, MinimumBytesPerThread);
        if (threads == 1)
            BackwardPart(work, streamed, 0, 1);
        else
            BackwardPartsInParallel(work, streamed, threads);
    }

    // Apart from the callers, so that one thread pays for no closure.
    private static void PartsInParallel(TokenCompactWork work, bool streamed, int threads) =>
        ThreadTeam.Run(threads, part => Part(work, streamed, part, threads));

    private static void BackwardPartsInParallel(TokenCompactWork work, bool streamed, int threads) =>
        ThreadTeam.Run(threads, part => BackwardPart(work, streamed, part, threads));

    /// <summary>
    /// One thread's share of each tensor: strips, or rows of each strip where there are few and they are not moved in place.
    /// </summary>
    private static unsafe void Part(in TokenCompactWork work, bool streamed, int part, int parts)
    {
        foreach (var item in work.Items)
        {
            var byRows = item.Strips < parts && !item.IsInPlace;
            var (firstStrip, lastStrip) = byRows ? (0, item.Strips) : Share(item.Strips, part, parts);
            for (var strip = firstStrip; strip < lastStrip; strip++)
            {
                item.Strip(strip, out var source, out var destination, out var segment);
                var (from, to) = work.Kept(item, segment);
                source -= work.Tokens(item, segment).From * item.SourceStep;
                var (begin, end) = byRows ? Share(to - from, part, parts) : (0, to - from);
                Gather(item, source, destination, work.Indices + from, begin, end, streamed);
                if (item.ClearRest && (!byRows || part == parts - 1))
                    Clear(item, destination, to - from, item.DestinationTokens);
            }
        }

        if (streamed)
            Sse.StoreFence();
    }

    private static unsafe void BackwardPart(in TokenCompactWork work, bool streamed, int part, int parts)
    {
        foreach (var item in work.Items)
        {
            var byRows = item.Strips < parts;
            var (firstStrip, lastStrip) = byRows ? (0, item.Strips) : Share(item.Strips, part, parts);
            for (var strip = firstStrip; strip < lastStrip; strip++)
            {
                item.Strip(strip, out var source, out var destination, out var segment);
                var (first, last) = work.Tokens(item, segment);
                source -= work.Kept(item, segment).From * item.SourceStep;
                var (begin, end) = byRows ? Share(last - first, part, parts) : (0, last - first);
                Spread(item, source, destination, work.Slots + first, begin, end, streamed);
                if (!byRows || part == parts - 1)
                    Clear(item, destination, last - first, item.DestinationTokens);
            }
        }

        if (streamed)
            Sse.StoreFence();
    }

    private static (long From, long To) Share(long count, int part, int parts) => (count * part / parts, count * (part + 1) / parts);

    private static unsafe void Clear(CompactItem item, byte* destination, long from, long to)
    {
        for (var place = from; place < to; place++)
            Unsafe.InitBlockUnaligned(destination + place * item.DestinationStep, 0, (uint)item.RowBytes);
    }

    /// <summary>Rows of one strip: destination row j is source row indices[j].</summary>
    private static unsafe void Gather(
        CompactItem item, byte* source, byte* destination, int* indices, long begin, long end, bool streamed)
    {
        switch (item.RowBytes)
        {
            case sizeof(byte):
                GatherElements<byte>(item, source, destination, indices, begin, end);
                break;
            case sizeof(ushort):
                GatherElements<ushort>(item, source, destination, indices, begin, end);
                break;
            case sizeof(uint):
                GatherElements<uint>(item, source, destination, indices, begin, end);
                break;
            case sizeof(ulong):
                GatherElements<ulong>(item, source, destination, indices, begin, end);
                break;
            default:
                GatherRows(item, source, destination, indices, begin, end, streamed && !item.IsInPlace);
                break;
        }
    }

    private static unsafe void GatherElements<T>(CompactItem item, byte* source, byte* destination, int* indices, long begin, long end)
        where T : unmanaged
    {
        var (from, to) = (item.SourceStep, item.DestinationStep);
        for (var j = begin; j < end; j++)
            Unsafe.WriteUnaligned(destination + j * to, Unsafe.ReadUnaligned<T>(source + indices[j] * from));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void GatherRows(
        CompactItem item, byte* source, byte* destination, int* indices, long begin, long end, bool streamed)
    {
        var (from, to, bytes) = (item.SourceStep, item.DestinationStep, item.RowBytes);
        for (var j = begin; j < end; j++)
        {
            if (j + Ahead < end)
                Prefetch.Row(source + indices[j + Ahead] * from, bytes);
            CopyRow(source + indices[j] * from, destination + j * to, bytes, streamed);
        }
    }

    /// <summary>Rows of one strip: destination row i is the source row that slots[i] names, or zero.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static unsafe void Spread(
        CompactItem item, byte* source, byte* destination, int* slots, long begin, long end, bool streamed)
    {
        var (from, to, bytes) = (item.SourceStep, item.DestinationStep, item.RowBytes);
        for (var i = begin; i < end; i++)
        {
            if (slots[i] >= 0)
                CopyRow(source + slots[i] * from, destination + i * to, bytes, streamed);
            else
                ClearRow(destination + i * to, bytes, streamed);
        }
    }

    // Kept rows are scattered: rows to come are asked for.
    private const int Ahead = 2;

    /// <summary>Rows that are the same are left alone; others do not overlap.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void CopyRow(byte* from, byte* to, long bytes, bool streamed)
    {
        if (from == to)
            return;
        if (bytes < VectorBytes)
        {
            Unsafe.CopyBlockUnaligned(to, from, (uint)bytes);
            return;
        }

        // Streamed stores are of aligned vectors, and nothing else writes their cache lines if it can be helped.
        var at = 0L;
        if (streamed)
        {
            at = -(nint)to & (VectorBytes - 1);
            if (at != 0)
                Vector256.Load(from).Store(to);
            for (; at <= bytes - 4 * VectorBytes; at += 4 * VectorBytes)
            {
                var (first, second) = (Vector256.Load(from + at), Vector256.Load(from + at + VectorBytes));
                var (third, fourth) = (Vector256.Load(from + at + 2 * VectorBytes), Vector256.Load(from + at + 3 * VectorBytes));
                first.StoreAlignedNonTemporal(to + at);
                second.StoreAlignedNonTemporal(to + at + VectorBytes);
                third.StoreAlignedNonTemporal(to + at + 2 * VectorBytes);
                fourth.StoreAlignedNonTemporal(to + at + 3 * VectorBytes);
            }

            for (; at <= bytes - VectorBytes; at += VectorBytes)
                Vector256.Load(from + at).StoreAlignedNonTemporal(to + at);
        }

        for (; at <= bytes - VectorBytes; at += VectorBytes)
            Vector256.Load(from + at).Store(to + at);
        if (at < bytes)
            Vector256.Load(from + bytes - VectorBytes).Store(to + bytes - VectorBytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void ClearRow(byte* to, long bytes, bool streamed)
    {
        if (!streamed || bytes < 2 * VectorBytes)
        {
            Unsafe.InitBlockUnaligned(to, 0, (uint)bytes);
            return;
        }

        var zero = Vector256<byte>.Zero;
        var at = (long)(-(nint)to & (VectorBytes - 1));
        if (at != 0)
            zero.Store(to);
        for (; at <= bytes - VectorBytes; at += VectorBytes)
            zero.StoreAlignedNonTemporal(to + at);
        if (at < bytes)
            zero.Store(to + bytes - VectorBytes);
    }
}
