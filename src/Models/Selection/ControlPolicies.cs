using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>A control for other policies: random tokens are kept.</summary>
/// <param name="budget">How many are kept.</param>
/// <param name="seed">Of the choice, which goes on from call to call.</param>
public sealed class RandomPolicy(Budget budget, int seed) : ScoredPolicy(budget)
{
    private readonly Random _random = new(seed);

    /// <inheritdoc/>
    public override Tensor Scores(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var scores = new float[layer.Images * layer.VisualTokens];
        for (var i = 0; i < scores.Length; i++)
            scores[i] = 1 - _random.NextSingle(); // above 0, so that each has mass
        return torch.tensor(scores, [layer.Images, layer.VisualTokens]);
    }
}

/// <summary>
/// A control for other policies: tokens at even steps are kept, ⌊(i + ½) n / k⌋ for each i below k.
/// </summary>
/// <param name="budget">k of n: <see cref="Budget.Count"/> or <see cref="Budget.Ratio"/>.</param>
/// <exception cref="ArgumentException">The budget depends on scores.</exception>
public sealed class StridePolicy(Budget budget) : ScoredPolicy(Unscored(budget, nameof(StridePolicy)))
{
    /// <inheritdoc/>
    public override Tensor Scores(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var scores = new float[layer.Images * layer.VisualTokens];
        for (var b = 0; b < layer.Images; b++)
        {
            var tokens = layer.VisualTokensOf(b);
            var count = CountOf(Budget, tokens, nameof(StridePolicy));
            for (var i = 0L; i < count; i++)
                scores[b * layer.VisualTokens + (2 * i + 1) * tokens / (2 * count)] = 1;
        }

        return torch.tensor(scores, [layer.Images, layer.VisualTokens]);
    }
}

/// <summary>A control for a policy that scores: the tokens are kept that it would drop first (worst-k).</summary>
/// <param name="policy">Whose scores are turned round, and whose budget holds.</param>
public sealed class WorstPolicy(ScoredPolicy policy) : ScoredPolicy(Required(policy).Budget)
{
    /// <inheritdoc/>
    public override Tensor Scores(PruningLayer layer) => policy.Scores(layer).neg();

    private static ScoredPolicy Required(ScoredPolicy policy)
    {
        ArgumentNullException.ThrowIfNull(policy);
        return policy;
    }
}
