using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A small <see cref="VisionLanguageModel"/> that learns the running counts of <see cref="ShapeGrid"/>, with the image once in front
/// (plain) or again in the middle of the answer, behind a bridging word (dynamic visual reaffirmation, DVR). Initialisation and data
/// depend on the seed alone.
/// </summary>
internal sealed class ShapeReader : IDisposable
{
    public const int Layers = 3, BatchSize = 32, Middle = ShapeGrid.Steps / 2;

    private const int Width = 64, Heads = 4, KvHeads = 2, FeedForward = 128;
    private const double Rate = 3e-3, WeightDecay = 0.01;

    private readonly AdamW _optimizer;
    private readonly Random _random;
    private readonly long _steps;
    private readonly bool _again;
    private long _step;

    /// <param name="again">Whether the image is shown again while it learns.</param>
    /// <param name="steps">Steps of the optimiser.</param>
    /// <param name="seed">Of initialisation and data.</param>
    public ShapeReader(bool again, long steps, int seed)
    {
        manual_seed(seed);
        (_again, _steps, _random) = (again, steps, new Random(seed));
        var decoder = new CausalDecoder(
            DecoderOptions.Uniform(ShapeGrid.Vocabulary, Width, Layers, Heads, KvHeads, FeedForward) with { InitialDeviation = 0.08 });
        Model = new VisionLanguageModel(
            new PatchEncoder(ShapeGrid.VisualTokens, ShapeGrid.PatchPixels, depth: 0), Width, decoder);
        _optimizer = new AdamW(Model.parameters(), Rate, weight_decay: WeightDecay) { MaxGradientNorm = 1 };
    }

    /// <summary>What is trained.</summary>
    public VisionLanguageModel Model { get; }

    /// <summary>One step of the optimiser; the rate warms up and then follows half a cosine.</summary>
    public double Step()
    {
        using var scope = NewDisposeScope();
        double done = (double)_step++ / _steps;
        _optimizer.ParamGroups.First().LearningRate = Rate * Math.Min(1, done / 0.05) * 0.5 * (1 + Math.Cos(Math.PI * done));
        using ShapeGridBatch batch = ShapeGrid.Draw(BatchSize, _random);
        _optimizer.zero_grad();
        Tensor loss = nn.functional.cross_entropy(Logits(batch).flatten(0, 1), batch.Answers.flatten());
        loss.backward();
        _optimizer.step();
        return loss.item<float>();
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        Model.Dispose();
    }

    // [n, 8, words]: what follows the question and each of the first seven answers, all of which are given.
    private Tensor Logits(ShapeGridBatch batch)
    {
        Tensor given = batch.Answers.narrow(1, 0, ShapeGrid.Steps - 1);
        long first = batch.Prompt.shape[1] - 1; // the question
        if (!_again)
            return Model.forward(batch.Patches, cat([batch.Prompt, given], 1)).narrow(1, first, ShapeGrid.Steps);

        // The image comes in front of the answer in the middle, as it does where that answer was observed and is not decoded yet.
        CausalDecoder decoder = Model.Decoder;
        Tensor visual = Model.Visual(batch.Patches);
        Tensor bridge = decoder.Embed(full([visual.shape[0], 1], (long)ShapeGrid.Bridge, dtype: ScalarType.Int64));
        Tensor front = decoder.Embed(cat([batch.Prompt, given.narrow(1, 0, Middle - 1)], 1));
        Tensor back = decoder.Embed(given.narrow(1, Middle - 1, ShapeGrid.Steps - Middle));
        Tensor logits = decoder.ForwardEmbeddings(cat([visual, front, bridge, visual, back], 1));
        return cat(
            [
                logits.narrow(1, ShapeGrid.VisualTokens + first, Middle),
                logits.narrow(1, logits.shape[1] - back.shape[1], back.shape[1]),
            ], 1);
    }
}
