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
        if (threads == 1)
            Part(layers, turns, 0, 1);
        else
            RunThreads(layers, turns, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(KvAppendWork[] layers, KvTurns turns, int threads) =>
        ThreadTeam.Run(threads, part => Part(layers, turns, part, threads));

    private static void Part(KvAppendWork[] layers, KvTurns turns, int part, int parts)
    {
        foreach (ref readonly var layer in layers.AsSpan())
            KvAppend.Part(layer, KvHeadLoops.Of(layer), turns, part, parts);
    }
}
