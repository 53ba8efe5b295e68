using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// A method of reducing visual tokens: from what a layer's attention has, to fewer tokens. Each method is one small class, here or in an
/// application.
/// </summary>
/// <remarks>
/// The reduction is decided from values alone; gradients go through the rows that are kept or merged. How many are kept is a
/// <see cref="Budget"/>: with <see cref="Budget.Threshold"/>, <see cref="Budget.TopP"/> and <see cref="Budget.Outliers"/> images keep
/// different numbers, where the method has scores.
/// </remarks>
public abstract class TokenPolicy
{
    /// <summary>
    /// Whether attention behind the reduction adds log size to its logits, so that a merged token weighs as much as its members did: ToMe's
    /// proportional attention.
    /// </summary>
    public virtual bool HasProportionalAttention => false;

    /// <summary>Decides what becomes of the tokens.</summary>
    /// <param name="layer">What the layer has.</param>
    /// <returns>A reduction of the layer's sequences; the caller disposes it.</returns>
    /// <exception cref="ArgumentException">The layer's tensors do not go together, or the method cannot work on them.</exception>
    public TokenReduction Reduce(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        layer.Require();
        using var scope = TorchSharp.torch.NewDisposeScope();
        using var noGrad = TorchSharp.torch.no_grad();
        return Decide(layer);
    }

    /// <inheritdoc cref="Reduce"/>
    /// <remarks>Without grad, and in a dispose scope of its own; a reduction's own tensors are outside of it.</remarks>
    protected abstract TokenReduction Decide(PruningLayer layer);

    /// <summary>How many of so many tokens a budget keeps that does not depend on scores.</summary>
    private protected static int CountOf(Budget budget, int tokens, string method) =>
        budget.Rule is BudgetRule.Count or BudgetRule.Ratio
            ? budget.Limit(Math.Min(budget.MostOf(tokens), tokens), tokens, 0)
            : throw new ArgumentException($"budget: {method} has no scores, so {budget} does not say how many tokens it keeps");

    /// <summary>Refuses a budget that depends on scores.</summary>
    private protected static Budget Unscored(Budget budget, string method)
    {
        _ = CountOf(budget, 1, method);
        return budget;
    }
}

/// <summary>A policy that keeps the visual tokens of highest score.</summary>
/// <param name="budget">How many of each image's visual tokens are kept.</param>
public abstract class ScoredPolicy(Budget budget) : TokenPolicy
{
    /// <summary>How many of each image's visual tokens are kept.</summary>
    public Budget Budget { get; } = budget;

    /// <summary>float32 [B, <see cref="PruningLayer.VisualTokens"/>]: the score of each visual token.</summary>
    /// <param name="layer">What the layer has.</param>
    public abstract Tensor Scores(PruningLayer layer);

    /// <inheritdoc/>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        using var visual = TokenPlan.Select(Scores(layer), Budget, layer.VisualSegments(), backend: layer.Backend);
        return visual.Within(layer.Protected, layer.Length);
    }
}
