using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// PruMerge (Shang et al. 2024, arXiv 2403.15388): keeps the tokens whose attention from the class token is an outlier, as many as there
/// are, and adds to each the rows of the 32 tokens that are most like it by keys, weighted by their attention.
/// </summary>
/// <param name="plus">
/// PruMerge+: tokens at even steps too, three for each outlier, every ⌊n / 3k⌋th of n tokens where k are outliers.
/// </param>
/// <param name="budget">How many are kept; null: <see cref="Budget.Outliers"/>, at least one.</param>
/// <param name="neighbours">How many tokens are added to each.</param>
/// <remarks>
/// Sums are not divided by the weights, as in the authors' code. That code also appends one token of all that was dropped, which is left
/// out here; and it computes one number of tokens for the batch, where here each image has its own.
/// </remarks>
/// <exception cref="ArgumentOutOfRangeException">The number of neighbours is negative.</exception>
public sealed class PruMerge(bool plus = false, Budget? budget = null, int neighbours = 32) : TokenPolicy
{
    private readonly Budget _budget = budget ?? Budget.Outliers().Within(minimum: 1);

    private readonly int _neighbours =
        neighbours >= 0 ? neighbours : throw new ArgumentOutOfRangeException(nameof(neighbours), neighbours, "It is not negative.");

    /// <inheritdoc/>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var scores = TokenScores.Cls(layer.Queries, layer.Keys, layer.Lengths, layer.Backend);
        var visual = TokenPlan.Select(layer.Visual(scores).contiguous(), _budget, layer.VisualSegments(), backend: layer.Backend);
        if (plus)
        {
            using var outliers = visual;
            var even = EvenTokens(layer, outliers).logical_or(outliers.Keep());
            visual = TokenPlan.Select(even.to(torch.float32), Budget.Threshold(1), layer.VisualSegments(), backend: layer.Backend);
        }

        using (visual)
        {
            var plan = visual.Within(layer.Protected, layer.Length);
            return new SupplementedPlan(plan, new WeightedSums(plan, Weights(layer, plan, scores)));
        }
    }

    private static Tensor EvenTokens(PruningLayer layer, TokenPlan outliers)
    {
        var even = new bool[layer.Images * layer.VisualTokens];
        for (var b = 0; b < layer.Images; b++)
        {
            var tokens = layer.VisualTokensOf(b);
            for (var i = 0; i < tokens && outliers.Counts[b] > 0; i += Math.Max(1, tokens / (3 * outliers.Counts[b])))
                even[b * layer.VisualTokens + i] = true;
        }

        return torch.tensor(even, [layer.Images, layer.VisualTokens]);
    }

    // [B, K, L]: what each visual token adds to each kept one.
    private Tensor Weights(PruningLayer layer, TokenPlan plan, Tensor scores)
    {
        var keys = torch.nn.functional.normalize(layer.Keys.transpose(1, 2).flatten(2), dim: 2);
        var similar = torch.bmm(plan.Apply(keys), keys.transpose(1, 2));
        var rows = plan.Positions();
        similar.scatter_(2, rows.unsqueeze(2), torch.full([.. rows.shape, 1], float.NegativeInfinity)); // itself
        var tokens = torch.arange(layer.Length).unsqueeze(0);
        var lengths = torch.tensor((layer.Lengths ?? [.. Enumerable.Repeat(layer.Length, layer.Images)]).ToArray()).unsqueeze(1);
        var visual = tokens.ge(layer.Protected).logical_and(tokens.lt(lengths)).unsqueeze(1);
        similar = similar.masked_fill(visual.logical_not(), float.NegativeInfinity);
        var nearest = similar.topk((int)Math.Min(_neighbours, similar.shape[2]), 2).indexes;
        var chosen = torch.zeros_like(similar).scatter_(2, nearest, torch.ones_like(nearest, dtype: torch.float32));
        chosen = chosen * similar.isneginf().logical_not();
        var merges = rows.ge(layer.Protected).logical_and(plan.Mask().view(layer.Images, -1)).unsqueeze(2);
        return chosen * scores.unsqueeze(1) * merges;
    }
}
