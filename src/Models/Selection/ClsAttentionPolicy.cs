using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Keeps the patches that the class token attends to most, by the mean over heads, as EViT does between blocks (Liang et al. 2022,
/// arXiv 2202.07800) without its fused token.
/// </summary>
/// <param name="budget">How many are kept. A share of the attention is <see cref="Budget.TopP"/>.</param>
public sealed class ClsAttentionPolicy(Budget budget) : ScoredPolicy(budget)
{
    /// <inheritdoc/>
    public override Tensor Scores(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        return layer.Visual(TokenScores.Cls(layer.Queries, layer.Keys, layer.Lengths, layer.Backend)).contiguous();
    }
}
