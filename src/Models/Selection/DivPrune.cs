using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// DivPrune (Alvar et al. 2025, arXiv 2503.02175): keeps tokens that are as unlike each other as can be, by greedy max-min over cosine
/// distances of hidden states (<see cref="TokenDiversity"/>). No attention is asked.
/// </summary>
/// <param name="budget">
/// How many are kept: <see cref="Budget.Count"/> or <see cref="Budget.Ratio"/>, of the image that has most; one that has fewer keeps all.
/// </param>
/// <exception cref="ArgumentException">The budget depends on scores.</exception>
public sealed class DivPrune(Budget budget) : TokenPolicy
{
    private readonly Budget _budget = Unscored(budget, nameof(DivPrune));

    /// <inheritdoc/>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var most = Enumerable.Range(0, layer.Images).Select(layer.VisualTokensOf).DefaultIfEmpty().Max();
        using var visual = TokenPlan.Diverse(
            layer.Visual(layer.Hidden), CountOf(_budget, most, nameof(DivPrune)), layer.VisualSegments(), layer.Backend);
        return visual.Within(layer.Protected, layer.Length);
    }
}
