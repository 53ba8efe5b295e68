using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A small <see cref="VisionLanguageModel"/> that learns to answer questions about <see cref="FashionCanvas"/>. Initialisation and order of
/// the data depend on the seed alone.
/// </summary>
internal sealed class CanvasReader : IDisposable
{
    public const int Layers = 4;

    private const int Width = 64, Heads = 4, KvHeads = 2, FeedForward = 128, BatchSize = 32, Questions = 4;
    private const double Rate = 3e-3, WeightDecay = 0.01;

    private readonly FashionCanvas _train;
    private readonly AdamW _optimizer;
    private readonly Random _random;
    private readonly long _steps;
    private long _step;

    public CanvasReader(FashionCanvas train, long steps, int seed)
    {
        manual_seed(seed);
        (_train, _steps, _random) = (train, steps, new Random(seed));
        var decoder = new CausalDecoder(
            DecoderOptions.Uniform(FashionCanvas.Vocabulary, Width, Layers, Heads, KvHeads, FeedForward) with { InitialDeviation = 0.08 });
        Model = new VisionLanguageModel(
            new PatchEncoder(FashionCanvas.VisualTokens, FashionCanvas.PatchPixels, depth: 1), Width, decoder);
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
        (Tensor patches, Tensor questions, Tensor answers) = _train.Draw(BatchSize, Questions, _random);
        _optimizer.zero_grad();
        Tensor loss = nn.functional.cross_entropy(Answer(patches, questions).flatten(0, 1), answers.flatten());
        loss.backward();
        _optimizer.step();
        return loss.item<float>();
    }

    /// <summary>Logits of the answers, [n, questions, words]: behind the last token of each.</summary>
    public Tensor Answer(Tensor patches, Tensor questions)
    {
        Tensor logits = Model.forward(patches, questions);
        return logits.view(logits.shape[0], -1, FashionCanvas.QuestionTokens, logits.shape[2]).select(2, FashionCanvas.QuestionTokens - 1);
    }

    /// <summary>
    /// Floating-point operations of the decoder's layers over one prompt: products of matrices, and attention to what is seen. The policy
    /// that prunes now, if one does, has seen a batch.
    /// </summary>
    public double DecoderFlops()
    {
        const int HeadDim = Width / Heads;
        const double Weights = 2.0 * Width * Width + 2.0 * Width * KvHeads * HeadDim + 3.0 * Width * FeedForward;
        double flops = 0;
        for (int layer = 0; layer < Layers; layer++)
        {
            SequenceLayout? layout = Model.Pruning?.LayoutOf(layer);
            double rows = layout is null
                ? FashionCanvas.VisualTokens + FashionCanvas.QuestionTokens
                : (double)layout.Tokens / layout.Batch;
            flops += 2 * rows * Weights + 4.0 * Width * rows * (rows + 1) / 2;
        }

        return flops;
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        Model.Dispose();
    }
}
