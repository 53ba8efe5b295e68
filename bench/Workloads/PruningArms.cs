using AuxCore.Kernels;
using AuxCore.Models;
using static TorchSharp.torch;

namespace AuxCore.Bench.Workloads;

/// <summary>A way of reducing tokens in one block.</summary>
/// <param name="Name">In results.</param>
/// <param name="IsControl">Whether others are compared with it.</param>
/// <param name="Create">The policy; its random numbers begin anew.</param>
internal sealed record PruningArm(string Name, bool IsControl, Func<TokenPolicy> Create);

/// <summary>Every policy, for a grid of 7 × 7 tokens behind a class token.</summary>
internal static class PruningArms
{
    public const string Cls = "CLS attention", Random = "random", Stride = "stride", Pooling = "pooling", Worst = "least attended";

    private const double ContextualShare = 10.0 / 64; // VisionZip's 54 + 10

    /// <summary>The shares that are compared, and a grid of as many cells, as nearly as there is one.</summary>
    public static IReadOnlyList<(double Ratio, (int Rows, int Columns) Cells)> Keeps { get; } =
        [(0.5, (5, 5)), (0.25, (3, 4)), (0.125, (2, 3))];

    /// <summary>The policies that keep a given number.</summary>
    public static IReadOnlyList<PruningArm> Of(double ratio, (int Rows, int Columns) cells, int seed)
    {
        var budget = Budget.Ratio(ratio);
        int kept = (int)Math.Floor(ratio * PruningTraining.Grid * PruningTraining.Grid + 0.5);
        int contextual = (int)Math.Round(ContextualShare * kept);
        return
        [
            new(Cls, false, () => new ClsAttentionPolicy(budget)),
            new("VisionZip", false, () => new VisionZip(Budget.Count(kept - contextual), contextual)),
            new("PruMerge, as many", false, () => new PruMerge(budget: budget)),
            new("DivPrune", false, () => new DivPrune(budget)),
            new("ToMe", false, () => new ToMe(budget)),
            new("DART", false, () => new Dart(budget)),
            new(Random, true, () => new RandomPolicy(budget, seed)),
            new(Stride, true, () => new StridePolicy(budget)),
            new(Pooling, true, () => new PoolingPolicy(
                PoolGrid.ToGrid(PruningTraining.Grid, PruningTraining.Grid, cells.Rows, cells.Columns))),
            new(Worst, true, () => new WorstPolicy(new ClsAttentionPolicy(budget))),
        ];
    }

    /// <summary>The policies by which images keep different numbers.</summary>
    public static IReadOnlyList<PruningArm> Dynamic { get; } =
    [
        new("CLS, top-p 0.7", false, () => new ClsAttentionPolicy(Budget.TopP(0.7))),
        new("CLS, top-p 0.5", false, () => new ClsAttentionPolicy(Budget.TopP(0.5))),
        new("CLS, above 1 / 50", false, () => new ClsAttentionPolicy(Budget.Threshold(1f / 50).Within(minimum: 1))),
        new("PruMerge", false, () => new PruMerge()),
        new("PruMerge+", false, () => new PruMerge(plus: true)),
    ];
}

/// <summary>What pruning in one block makes of a model's predictions.</summary>
/// <param name="Right">How many images are labelled right.</param>
/// <param name="Kept">Visual tokens left, summed over images.</param>
internal sealed record PruningOutcome(long Right, long Kept);

/// <summary>Runs a model with every policy. What comes before the pruned block is computed once for all.</summary>
internal static class PruningEvaluation
{
    private const long BatchSize = 100; // what a block works on stays in the second-level cache

    /// <summary>The blocks in which tokens are pruned, from 0.</summary>
    public static IReadOnlyList<int> Blocks { get; } = [1, 2];

    /// <summary>Labels images by each arm in each block.</summary>
    /// <returns>Without pruning; then, for each of <see cref="Blocks"/>, one an arm.</returns>
    public static (PruningOutcome Unpruned, PruningOutcome[][] Pruned) Run(
        VisionTransformer model, ByteImages images, IReadOnlyList<PruningArm> arms, Action<double> progress,
        CancellationToken cancellation)
    {
        using IDisposable noGrad = no_grad();
        int depth = model.Options.Depth, tokens = model.Options.Grid * model.Options.Grid;
        TokenPolicy[][] policies = [.. Blocks.Select(_ => arms.Select(arm => arm.Create()).ToArray())];
        PruningOutcome unpruned = new(0, 0);
        PruningOutcome[][] pruned = [.. Blocks.Select(_ => arms.Select(_ => new PruningOutcome(0, 0)).ToArray())];
        for (long from = 0; from < images.Count; from += BatchSize)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            (Tensor batch, Tensor labels) = images.Range(from, Math.Min(BatchSize, images.Count - from));
            VisionTokens state = model.Embed(batch);
            for (int block = 0; block < depth; block++)
            {
                (VisionTokens attended, PruningLayer layer) = model.Block(block).Attend(state);
                int place = Blocks.TakeWhile(b => b != block).Count();
                for (int arm = 0; place < Blocks.Count && arm < arms.Count; arm++)
                {
                    using var inner = NewDisposeScope();
                    var reductions = new List<TokenReduction>();
                    VisionTokens left = model.Block(block).Finish(attended, layer, policies[place][arm], reductions);
                    for (int later = block + 1; later < depth; later++)
                    {
                        (VisionTokens next, PruningLayer nextLayer) = model.Block(later).Attend(left);
                        left = model.Block(later).Finish(next, nextLayer);
                    }

                    pruned[place][arm] = Add(
                        pruned[place][arm], model.Classify(left), labels, reductions[0].Counts.Sum(count => count - 1L));
                    reductions[0].Dispose();
                }

                state = model.Block(block).Finish(attended, layer);
            }

            unpruned = Add(unpruned, model.Classify(state), labels, batch.shape[0] * tokens);
            progress((double)Math.Min(images.Count, from + BatchSize) / images.Count);
        }

        return (unpruned, pruned);
    }

    /// <summary>
    /// Millions of floating-point operations of an image: two for each multiplication of a product, the policies' own left out.
    /// </summary>
    /// <param name="options">The model.</param>
    /// <param name="block">Where it prunes.</param>
    /// <param name="kept">How many visual tokens are left, a mean over images.</param>
    public static double MegaFlops(VisionTransformerOptions options, int block, double kept)
    {
        double all = options.Grid * options.Grid + 1, left = kept + 1, width = options.Width;
        double embedding = (all - 1) * options.Patch * options.Patch * options.Channels * width;
        double before = (block + 1) * Attention(all) + block * Perceptron(all);
        double behind = (options.Depth - block - 1) * (Attention(left) + Perceptron(left)) + Perceptron(left);
        return 2e-6 * (embedding + before + behind + width * options.Classes);

        double Attention(double tokens) => 4 * tokens * width * width + 2 * tokens * tokens * width;

        double Perceptron(double tokens) => 2 * options.MlpRatio * tokens * width * width;
    }

    private static PruningOutcome Add(PruningOutcome so, Tensor logits, Tensor labels, long kept) =>
        new(so.Right + logits.argmax(1).eq(labels).sum().item<long>(), so.Kept + kept);
}
