namespace AuxCore.Kernels;

/// <summary>
/// The device memory that <see cref="TokenMerge"/> keeps between its launches: unit vectors' scales, lists of who looks among whom, and the
/// best of each chunk of candidates; or the members of each slot. The same arithmetic as in
/// <c>native/cuda/token_pruning/token_merge.cpp</c>, which refuses less.
/// </summary>
internal static class MergeWorkspace
{
    private const int Tile = 64, MostChunks = 16, WantedBlocks = 264;

    public static long OfMatching(long tokens, long segments)
    {
        var tiles = Math.Max(1, (tokens + Tile - 1) / Tile);
        var chunks = Math.Clamp(WantedBlocks / tiles, 1, Math.Min(MostChunks, tiles));
        return Aligned(tokens * sizeof(double)) + 2 * Aligned(tokens * sizeof(int)) + Aligned(segments * 2 * sizeof(int))
            + 2 * Aligned(chunks * tokens * sizeof(float));
    }

    public static long OfMerging(long tokens, long kept) => Aligned(tokens * sizeof(int)) + Aligned((kept + 1) * sizeof(int));

    private static long Aligned(long bytes) => (bytes + 255) / 256 * 256;
}
