namespace AuxCore.Models;

/// <summary>
/// What a <see cref="CausalDecoder"/> costs, and a prompt by KV Prediction (Horton et al. 2024, arXiv 2410.08391, section 4: the reduction
/// of work is reported as a ratio of parameters). Floating-point operations count a multiplication and an addition as two.
/// </summary>
public static class KvPredictionCost
{
    /// <summary>How many parameters a decoder has, the embedding included, a tied head once.</summary>
    /// <param name="options">The decoder.</param>
    public static long Parameters(DecoderOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        var embedding = (long)options.Vocabulary * options.Width;
        return options.Layers.Sum(layer => LayerParameters(options, layer)) + options.Width + embedding * (options.TiedHead ? 1 : 2);
    }

    /// <summary>
    /// The operations of reading n tokens for the logits behind the last: 2 n for each parameter of the layers' products, the causal half
    /// of attention, and one row of the head.
    /// </summary>
    /// <param name="options">The decoder.</param>
    /// <param name="tokens">n.</param>
    /// <param name="head">Whether the logits are computed: an auxiliary model's are not wanted.</param>
    public static double PrefillOperations(DecoderOptions options, long tokens, bool head = true)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        var products = 2.0 * tokens * options.Layers.Sum(layer => LayerProducts(options, layer));
        return products + Attention(options, tokens * (tokens + 1.0) / 2) + (head ? Head(options) : 0);
    }

    /// <summary>The operations of one token behind n others.</summary>
    /// <param name="options">The decoder.</param>
    /// <param name="past">n.</param>
    public static double DecodeOperations(DecoderOptions options, long past)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        ArgumentOutOfRangeException.ThrowIfNegative(past);
        return 2.0 * options.Layers.Sum(layer => LayerProducts(options, layer)) + Attention(options, past + 1) + Head(options);
    }

    /// <summary>The operations of predicting keys and values of n tokens.</summary>
    /// <param name="predictor">From which sizes to which.</param>
    /// <param name="tokens">n.</param>
    public static double PredictorOperations(KvPredictor predictor, long tokens)
    {
        ArgumentNullException.ThrowIfNull(predictor);
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        var (to, from) = (predictor.BaseOptions, predictor.AuxiliaryOptions);
        return Enumerable.Range(0, to.Layers.Count).Sum(i =>
            2.0 * 2 * tokens * from.Layers[predictor.Map[i]].KvHeads * from.HeadDim * to.Layers[i].KvHeads * to.HeadDim);
    }

    /// <summary>The operations of a prompt of n tokens by KV Prediction: auxiliary model, predictor, and the base's last token.</summary>
    /// <param name="predictor">From which sizes to which.</param>
    /// <param name="tokens">n, at least 1.</param>
    public static double PredictionOperations(KvPredictor predictor, long tokens)
    {
        ArgumentNullException.ThrowIfNull(predictor);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(tokens);
        return PrefillOperations(predictor.AuxiliaryOptions, tokens - 1, head: false) + PredictorOperations(predictor, tokens - 1)
            + DecodeOperations(predictor.BaseOptions, tokens - 1);
    }

    private static double Attention(DecoderOptions options, double pairs) =>
        4.0 * options.Layers.Sum(layer => (double)layer.QueryHeads * options.HeadDim) * pairs;

    private static double Head(DecoderOptions options) => 2.0 * options.Vocabulary * options.Width;

    private static long LayerProducts(DecoderOptions options, DecoderLayerSizes layer)
    {
        long query = (long)layer.QueryHeads * options.HeadDim, kv = (long)layer.KvHeads * options.HeadDim;
        return options.Width * (2 * query + 2 * kv) + 3L * options.Width * layer.FeedForward;
    }

    private static long LayerParameters(DecoderOptions options, DecoderLayerSizes layer)
    {
        long query = (long)layer.QueryHeads * options.HeadDim, kv = (long)layer.KvHeads * options.HeadDim;
        return LayerProducts(options, layer) + 2L * options.Width
            + (options.QueryKeyNorm ? 2L * options.HeadDim : 0)
            + (options.QkvBias ? query + 2 * kv : 0) + (options.OutputBias ? options.Width : 0)
            + (options.FeedForwardBias ? 2L * layer.FeedForward + options.Width : 0);
    }
}
