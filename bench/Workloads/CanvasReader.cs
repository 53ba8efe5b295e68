using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>Learns to answer questions about <see cref="FashionCanvas"/>.</summary>
internal sealed class CanvasReader(FashionCanvas train, long steps, int seed) : Reader(
    FashionCanvas.Vocabulary, Layers, FashionCanvas.VisualTokens, FashionCanvas.PatchPixels, depth: 1, steps, seed)
{
    public const int Layers = 4;

    private const int Questions = 4;

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

    protected override (Tensor Logits, Tensor Answers) Draw()
    {
        (Tensor patches, Tensor questions, Tensor answers) = train.Draw(BatchSize, Questions, Random);
        return (Answer(patches, questions), answers);
    }
}
