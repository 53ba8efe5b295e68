using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>
/// ToMe (Bolya et al. 2023, arXiv 2210.09461): tokens that are alike by their keys' mean over heads merge into means, weighted by how many
/// each stands for, and attention behind adds log size. Bipartite matching halves the tokens at most; where fewer are to be left, it goes
/// on with the merged ones.
/// </summary>
/// <param name="budget">
/// How many visual tokens are left: <see cref="Budget.Count"/> or <see cref="Budget.Ratio"/>. The paper's r, merged away in each of a
/// model's blocks, is a budget of n − r there.
/// </param>
/// <exception cref="ArgumentException">The budget depends on scores.</exception>
public sealed class ToMe(Budget budget) : TokenPolicy
{
    private readonly Budget _budget = Unscored(budget, nameof(ToMe));

    /// <inheritdoc/>
    public override bool HasProportionalAttention => true;

    /// <inheritdoc/>
    /// <remarks>Images of one length only.</remarks>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        if (layer.Lengths is { } lengths && lengths.Any(length => length != layer.Length))
            throw new ArgumentException("Lengths: ToMe merges images of one length", nameof(layer));
        var tokens = layer.VisualTokens;
        var left = Math.Max(CountOf(_budget, tokens, nameof(ToMe)), Math.Min(1, tokens));
        var metric = layer.Visual(layer.Keys.mean([1]));
        var sizes = layer.Sizes is null ? torch.ones(layer.Images, tokens) : layer.Visual(layer.Sizes).contiguous();
        var groups = torch.arange(tokens).expand(layer.Images, tokens);
        for (var count = tokens; count > left;)
        {
            using var merging = TokenMerging.Bipartite(metric, count - left, sizes: sizes, backend: layer.Backend);
            groups = merging.Groups().to(torch.int64).gather(1, groups);
            (metric, sizes) = (merging.Apply(metric), merging.Sizes());
            count = (int)merging.Length;
        }

        var all = torch.cat([torch.arange(layer.Protected).expand(layer.Images, layer.Protected), groups + layer.Protected], 1);
        return TokenMerging.Of(all, layer.Protected + left, layer.Sizes, layer.Backend);
    }
}
