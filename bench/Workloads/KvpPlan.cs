using AuxCore.Models;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// The sizes of the KV-prediction experiment: a base of 2.4 million parameters, a smaller sibling of 0.34 million, the base with every
/// other layer left out, and how long each of them is trained.
/// </summary>
internal sealed record KvpPlan
{
    /// <summary>The base.</summary>
    public DecoderOptions BaseOptions { get; init; } = Bytes(192, 6, 6, 2, 512, 32);

    /// <summary>The smaller sibling.</summary>
    public DecoderOptions AuxiliaryOptions { get; init; } = Bytes(96, 3, 4, 2, 256, 32);

    /// <summary>Which layers of the base the layer-pruned model keeps.</summary>
    public IReadOnlyList<int> Kept { get; init; } = [0, 2, 4];

    /// <summary>
    /// Steps of base and auxiliary model on text and then on recall, of the layer-pruned model behind those of the base, and of predictors.
    /// </summary>
    public int LanguageSteps { get; init; } = 3000;

    /// <inheritdoc cref="LanguageSteps"/>
    public int RecallSteps { get; init; } = 6000;

    /// <inheritdoc cref="LanguageSteps"/>
    public int PrunedSteps { get; init; } = 1000;

    /// <inheritdoc cref="LanguageSteps"/>
    public int PredictorSteps { get; init; } = 10_000;

    /// <summary>Models that learn nothing in a few seconds: they show that everything runs.</summary>
    public static KvpPlan Quick { get; } = new()
    {
        BaseOptions = Bytes(64, 4, 2, 1, 96, 32),
        AuxiliaryOptions = Bytes(32, 2, 2, 1, 48, 32),
        Kept = [0, 2],
        LanguageSteps = 24,
        RecallSteps = 8,
        PrunedSteps = 8,
        PredictorSteps = 16,
    };

    /// <summary>The layer-pruned model.</summary>
    public DecoderOptions PrunedOptions => KvPredictor.Pruned(BaseOptions, Kept);

    /// <summary>Which of its layers each layer of the base is predicted from.</summary>
    public IReadOnlyList<int> PrunedMap => KvPredictor.PrunedMap(BaseOptions.Layers.Count, Kept);

    private static DecoderOptions Bytes(int width, int layers, int queryHeads, int kvHeads, int feedForward, int headDim) =>
        DecoderOptions.Uniform(TextBatches.Vocabulary, width, layers, queryHeads, kvHeads, feedForward, headDim) with
        {
            QueryKeyNorm = true,
            TiedHead = true,
        };
}
