using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A small <see cref="VisionLanguageModel"/> in training, its rate warmed up and then along half a cosine. Initialisation and data depend
/// on the seed alone.
/// </summary>
internal abstract class Reader : IDisposable
{
    public const int BatchSize = 32;

    protected const int Width = 64, Heads = 4, KvHeads = 2, FeedForward = 128;
    private const double Rate = 3e-3, WeightDecay = 0.01;

    private readonly AdamW _optimizer;
    private readonly long _steps;
    private long _step;

    /// <param name="vocabulary">Words of the decoder.</param>
    /// <param name="layers">Its layers.</param>
    /// <param name="visualTokens">Patches of an image.</param>
    /// <param name="patchPixels">Pixels of a patch.</param>
    /// <param name="depth">Layers of the encoder.</param>
    /// <param name="steps">Steps of the optimiser.</param>
    /// <param name="seed">Of initialisation and data.</param>
    protected Reader(int vocabulary, int layers, int visualTokens, int patchPixels, int depth, long steps, int seed)
    {
        manual_seed(seed);
        (_steps, Random) = (steps, new Random(seed));
        var decoder = new CausalDecoder(
            DecoderOptions.Uniform(vocabulary, Width, layers, Heads, KvHeads, FeedForward) with { InitialDeviation = 0.08 });
        Model = new VisionLanguageModel(new PatchEncoder(visualTokens, patchPixels, depth), Width, decoder);
        _optimizer = new AdamW(Model.parameters(), Rate, weight_decay: WeightDecay) { MaxGradientNorm = 1 };
    }

    /// <summary>What is trained.</summary>
    public VisionLanguageModel Model { get; }

    /// <summary>Where batches are drawn from.</summary>
    protected Random Random { get; }

    /// <summary>One step of the optimiser, and the loss before it.</summary>
    public double Step()
    {
        using var scope = NewDisposeScope();
        double done = (double)_step++ / _steps;
        _optimizer.ParamGroups.First().LearningRate = Rate * Math.Min(1, done / 0.05) * 0.5 * (1 + Math.Cos(Math.PI * done));
        _optimizer.zero_grad();
        (Tensor logits, Tensor answers) = Draw();
        Tensor loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten());
        loss.backward();
        _optimizer.step();
        return loss.item<float>();
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        Model.Dispose();
    }

    /// <summary>A batch's logits, [n, answers, words], and right answers, [n, answers]; in the caller's dispose scope.</summary>
    protected abstract (Tensor Logits, Tensor Answers) Draw();
}
