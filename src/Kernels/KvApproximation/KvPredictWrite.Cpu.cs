namespace AuxCore.Kernels;

public static partial class KvPredictWrite
{
    // A thread gets at least this many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    private static void RunCpu(KvAppendWork[] layers)
    {
        if (layers.Length == 0)
            return;
        using var turns = new KvTurns(layers[0].Rotary, layers[0].RotatedElements, layers[0].Places);
        var threads = ThreadTeam.Count(layers.Sum(layer => layer.Elements), MinimumElementsPerThread);
        KvHeadLoops[] loops = [.. layers.Select(layer => KvHeadLoops.Of(layer))]; // of the caller's width, not a worker's
        if (threads == 1)
            Part(layers, loops, turns, 0, 1);
        else
            RunThreads(layers, loops, turns, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvAppendWork[] layers, KvHeadLoops[] loops, KvTurns turns, int threads) =>
        ThreadTeam.Run(threads, part => Part(layers, loops, turns, part, threads));

    private static void Part(KvAppendWork[] layers, KvHeadLoops[] loops, KvTurns turns, int part, int parts)
    {
        for (var i = 0; i < layers.Length; i++)
            KvAppend.Part(layers[i], loops[i], turns, part, parts);
    }
}
