namespace AuxCore.Models;

/// <summary>
/// The sizes of the OpenELM family (Mehta et al. 2024, arXiv 2404.14619), whose layers grow from first to last: the decoders of the
/// KV Prediction paper. Sizes only; there are no weights here.
/// </summary>
public static class OpenElm
{
    private const int Vocabulary = 32_000, QueryHeadsPerKvHead = 4, FeedForwardDivisor = 256;

    /// <summary>270 million parameters: 16 layers.</summary>
    public static DecoderOptions Options270M { get; } = Options(1280, 16, 64);

    /// <summary>450 million parameters: 20 layers.</summary>
    public static DecoderOptions Options450M { get; } = Options(1536, 20, 64);

    /// <summary>1.1 billion parameters: 28 layers.</summary>
    public static DecoderOptions Options1B { get; } = Options(2048, 28, 64);

    /// <summary>3 billion parameters: 36 layers.</summary>
    public static DecoderOptions Options3B { get; } = Options(3072, 36, 128);

    private static DecoderOptions Options(int width, int layers, int headDim) => new()
    {
        Vocabulary = Vocabulary,
        Width = width,
        HeadDim = headDim,
        QueryKeyNorm = true,
        TiedHead = true,
        Layers = [.. Enumerable.Range(0, layers).Select(i => Layer(width, headDim, i / (layers - 1.0)))],
    };

    // Multipliers go evenly from 0.5 to 1 for attention and from 0.5 to 4 for the feed-forward width, each rounded to two places.
    private static DecoderLayerSizes Layer(int width, int headDim, double depth)
    {
        double attention = Math.Round(0.5 + 0.5 * depth, 2), feedForward = Math.Round(0.5 + 3.5 * depth, 2);
        var queryHeads = Multiple(width * attention, headDim * QueryHeadsPerKvHead) / headDim;
        return new(queryHeads, queryHeads / QueryHeadsPerKvHead, Multiple(width * feedForward, FeedForwardDivisor));
    }

    // The nearest multiple, but not less than nine tenths.
    private static int Multiple(double value, int divisor)
    {
        var nearest = Math.Max(divisor, (int)(value + divisor / 2.0) / divisor * divisor);
        return nearest < 0.9 * value ? nearest + divisor : nearest;
    }
}
