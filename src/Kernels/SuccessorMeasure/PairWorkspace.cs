namespace AuxCore.Kernels;

/// <summary>
/// The device memory that the losses over pairs of a batch keep between their launches. The same arithmetic as in
/// <c>forward_backward_loss.cpp</c> and <c>info_nce_loss.cpp</c> (<c>native/cuda/successor_measure</c>), which refuse less.
/// </summary>
internal static class PairWorkspace
{
    private const long Alignment = 256;
    private const int Tile = 64, Threads = 256;
    private const int MostSegments = 8, SegmentPairs = 1 << 14;
    private const int MostSlices = 16, MinimumSliceRows = 128;

    public static long Of(FbShape shape, FbOptions options)
    {
        var (heads, n, d) = ((long)shape.Heads, (long)shape.Count, (long)shape.Dimension);
        var isGram = options.IsGram;
        var slices = Math.Clamp(n / Math.Max(MinimumSliceRows, d), 1, MostSlices);
        var segments = isGram ? 1 : Segments(n);
        var gramBlocks = (d * d + Threads - 1) / Threads;
        var squareBlocks = isGram ? gramBlocks : (n + Tile - 1) / Tile * segments;
        return Floats(n) + Doubles(heads * n) + Doubles(n) + Doubles(n) // discounts, products, targets, norms
            + Floats(isGram ? n * d : 0) + Doubles(slices * (isGram ? 6 : 1) * d * d) + Floats(4 * d * d) // targets, Grams, operands
            + Doubles(squareBlocks + gramBlocks) + Floats((segments - 1) * heads * n * d) + Floats((segments - 1) * n * d);
    }

    /// <summary>Of an InfoNCE loss.</summary>
    public static long Of(long n, long d)
    {
        var segments = Segments(n);
        return Floats(d) + 3 * Floats(n) + 3 * Doubles(n) + 3 * Floats(n) // terms, positives, logsumexps
            + 4 * Floats(segments * n) + 2 * Floats((segments - 1) * n * d); // maxima, sums, weights; gradients
    }

    private static long Segments(long n) => Math.Clamp(SegmentPairs / n, 1, Math.Min(MostSegments, (n + Tile - 1) / Tile));

    private static long Floats(long count) => Aligned(checked(count * sizeof(float)));

    private static long Doubles(long count) => Aligned(checked(count * sizeof(double)));

    private static long Aligned(long bytes) => checked(bytes + Alignment - 1) / Alignment * Alignment;
}
