namespace AuxCore.Kernels;

/// <summary>
/// The device memory that <see cref="TokenScores"/> keeps between its launches: logits and softmaxes, or the softmaxes of rows and sums of
/// columns. The same arithmetic as in <c>native/cuda/token_pruning/token_scores.cpp</c>, which refuses less.
/// </summary>
internal static class ScoresWorkspace
{
    private const int Threads = 256, Tile = 64, MostChunks = 64, ManyRows = 24, WantedBlocks = 264, SoftmaxBytes = 16;

    public static long Of(long batch, long heads, long keyHeads, long rows, long tokens)
    {
        var shared = heads / keyHeads * rows;
        var softmaxes = checked(batch * heads * rows * SoftmaxBytes);
        if (shared < ManyRows)
        {
            var keysAtOnce = Threads / (shared <= 1 ? 1 : shared <= 4 ? 4 : 8);
            var chunks = Math.Clamp((tokens + keysAtOnce - 1) / keysAtOnce, 1, MostChunks);
            return Aligned(checked(batch * heads * rows * tokens * sizeof(float))) + Aligned(softmaxes * chunks);
        }

        var splits = Math.Clamp(WantedBlocks / Math.Max(1, batch * ((tokens + Tile - 1) / Tile)), 1, heads);
        return Aligned(softmaxes) + Aligned(checked(splits * batch * tokens * sizeof(double)));
    }

    private static long Aligned(long bytes) => checked(bytes + 255) / 256 * 256;
}
