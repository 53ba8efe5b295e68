namespace AuxCore.Kernels;

public static partial class KvAppend
{
    // A thread gets at least this many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    private static unsafe void RunCpu(in KvAppendWork work)
    {
        using var turns = new KvTurns(work.Rotary, work.RotatedElements, work.Places);
        var loops = KvHeadLoops.For(CpuSimd.Width, work);
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
    internal static unsafe void Part(in KvAppendWork work, in KvHeadLoops loops, KvTurns turns, int part, int parts)
    {
        var (d, pairs) = (work.HeadDim, work.RotatedElements / 2);
        using var scratch = new Scratch();
        var row = scratch.Take<float>(d);
        var byHeads = work.Cache.NeedsEveryPosition;
        var block = byHeads ? scratch.Take<float>((long)d * KiviGroup.Elements) : null;
        var (from, to) = byHeads ? (0, work.Tokens) : Share(work.Tokens, part, parts);
        var (firstQuery, endQuery) = byHeads ? Share(work.Query.Heads, part, parts) : (0, work.Query.Heads);
        var (firstHead, endHead) = byHeads ? Share(work.KvHeads, part, parts) : (0, work.KvHeads);
        for (var token = from; token < to; token++)
        {
            var turn = turns.Of(token);
            for (var head = firstQuery; head < endQuery; head++)
            {
                var rotated = work.Rotated + token * work.RotatedStep + (long)head * d;
                loops.Transform(work.Query, token, head, turn, pairs, rotated);
            }

            var b = work.Places.Sequence(token);
            for (var head = firstHead; head < endHead; head++)
            {
                var slot = work.Places.Slot(token, head);
                loops.Transform(work.Keys, token, head, turn, pairs, row);
                loops.StoreKey(row, work.Cache.Keys, b, head, slot, block);
                loops.Transform(work.Values, token, head, default, 0, row);
                loops.StoreValue(row, work.Cache.Values, b, head, slot);
            }
        }
    }

    private static (int From, int To) Share(int count, int part, int parts) =>
        ((int)((long)count * part / parts), (int)((long)count * (part + 1) / parts));
}
