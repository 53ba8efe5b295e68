using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class KvAppend
{
    // A thread gets at least this many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    private static unsafe void RunCpu(in KvAppendWork work)
    {
        using var turns = new KvTurns(work.Rotary, work.RotatedElements, work.Places);
        var loops = KvHeadLoops.Of(work);
        var threads = ThreadTeam.Count(work.Elements, MinimumElementsPerThread);
        if (threads == 1)
            Part(work, loops, turns, 0, 1);
        else
            RunThreads(work, loops, turns, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvAppendWork work, KvHeadLoops loops, KvTurns turns, int threads) =>
        ThreadTeam.Run(threads, part => Part(work, loops, turns, part, threads));

    /// <summary>A part of a layer: tokens or, where a head's tokens must come in their order, heads.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    internal static unsafe void Part(in KvAppendWork work, in KvHeadLoops loops, KvTurns turns, int part, int parts)
    {
        // Structs of structs: what is read for each row is copied once.
        var (cache, places, queries, keys, values) = (work.Cache, work.Places, work.Query, work.Keys, work.Values);
        var (keyPlane, valuePlane) = (cache.Keys, cache.Values);
        var (d, pairs) = (cache.HeadDim, work.RotatedElements / 2);
        using var scratch = new Scratch();
        var row = scratch.Take<float>(d);
        var byHeads = cache.NeedsEveryPosition;
        var block = byHeads ? scratch.Take<float>((long)d * KiviGroup.Elements) : null;
        var (from, to) = byHeads ? (0, places.Tokens) : Share(places.Tokens, part, parts);
        var (firstQuery, endQuery) = byHeads ? Share(queries.Heads, part, parts) : (0, queries.Heads);
        var (firstHead, endHead) = byHeads ? Share(cache.KvHeads, part, parts) : (0, cache.KvHeads);
        for (var token = from; token < to; token++)
        {
            var turn = turns.Of(token);
            for (var head = firstQuery; head < endQuery; head++)
                loops.Transform(queries, token, head, turn, pairs, work.Rotated + token * work.RotatedStep + (long)head * d);

            var b = places.Sequence(token);
            for (var head = firstHead; head < endHead; head++)
            {
                var slot = places.Slot(token, head);
                loops.Transform(keys, token, head, turn, pairs, row);
                loops.StoreKey(row, keyPlane, b, head, slot, block);
                loops.Transform(values, token, head, default, 0, row);
                loops.StoreValue(row, valuePlane, b, head, slot);
            }
        }
    }

    private static (int From, int To) Share(int count, int part, int parts) =>
        ((int)((long)count * part / parts), (int)((long)count * (part + 1) / parts));
}
