using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// Learns the running counts of <see cref="ShapeGrid"/>, with the image once in front (plain) or again in the middle of the answer, behind
/// a bridging word (dynamic visual reaffirmation, DVR).
/// </summary>
/// <param name="again">Whether the image is shown again while it learns.</param>
/// <param name="steps">Steps of the optimiser.</param>
/// <param name="seed">Of initialisation and data.</param>
internal sealed class ShapeReader(bool again, long steps, int seed) : Reader(
    ShapeGrid.Vocabulary, Layers, ShapeGrid.VisualTokens, ShapeGrid.PatchPixels, depth: 0, steps, seed)
{
    public const int Layers = 3, Middle = ShapeGrid.Steps / 2;

    protected override (Tensor Logits, Tensor Answers) Draw()
    {
        ShapeGridBatch batch = ShapeGrid.Draw(BatchSize, Random);
        return (Logits(batch), batch.Answers);
    }

    // [n, 8, words]: what follows the question and each of the first seven answers, all of which are given.
    private Tensor Logits(ShapeGridBatch batch)
    {
        Tensor given = batch.Answers.narrow(1, 0, ShapeGrid.Steps - 1);
        long first = batch.Prompt.shape[1] - 1; // the question
        if (!again)
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
