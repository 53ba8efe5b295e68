using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>Which tokens of each head are kept, given their scores. Of equal scores the lower slot wins, and the lower head.</summary>
internal static class KvSelection
{
    /// <summary>Each head keeps its best; one that holds less than its budget keeps all.</summary>
    public static int[][] ByHead(float[][] scores, ReadOnlySpan<int> budgets)
    {
        var kept = new int[scores.Length][];
        for (var head = 0; head < kept.Length; head++)
            kept[head] = Best(scores[head], Math.Min(budgets[head], scores[head].Length), []);
        return kept;
    }

    /// <summary>
    /// Heads compete for the sum of their budgets; each keeps at least ⌊floor · budget⌋ of its own (Ada-KV; the floor as in kvpress).
    /// </summary>
    public static int[][] Jointly(float[][] scores, ReadOnlySpan<int> budgets, double floor)
    {
        float[] all = [.. scores.SelectMany(row => row)];
        var always = new bool[all.Length];
        var total = 0L;
        for (int head = 0, from = 0; head < scores.Length; from += scores[head++].Length)
        {
            total += budgets[head];
            foreach (var slot in Best(scores[head], (int)Math.Min(floor * budgets[head], scores[head].Length), []))
                always[from + slot] = true;
        }

        var best = Best(all, (int)Math.Min(total, all.Length), always);
        var kept = new int[scores.Length][];
        for (int head = 0, from = 0; head < scores.Length; from += scores[head++].Length)
            kept[head] = [.. best.Where(i => i >= from && i < from + scores[head].Length).Select(i => i - from)];
        return kept;
    }

    private static int[] Best(float[] scores, int count, bool[] always)
    {
        var indices = new int[count];
        TokenSelect.Run(
            scores, [0, scores.Length], Budget.Count(count), new() { Indices = indices, Offsets = new int[2] }, always);
        return indices;
    }
}
