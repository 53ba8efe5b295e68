using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>
/// VisionZip (Yang et al. 2024, arXiv 2412.04467): dominant tokens are those that the class token attends to most. Of the others, some at
/// even steps become contextual: each is its own row plus the mean of the rows that are most like it by their keys' mean over heads.
/// </summary>
/// <param name="dominant">How many dominant tokens are kept.</param>
/// <param name="contextual">How many contextual ones; in the paper 54 and 10 of 576.</param>
/// <remarks>The authors put contextual tokens behind the dominant ones; here all stay in their order.</remarks>
/// <exception cref="ArgumentOutOfRangeException">The number of contextual tokens is negative.</exception>
public sealed class VisionZip(Budget dominant, int contextual) : TokenPolicy
{
    private readonly int _contextual =
        contextual >= 0 ? contextual : throw new ArgumentOutOfRangeException(nameof(contextual), contextual, "It is not negative.");

    /// <inheritdoc/>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        var scores = new ClsAttentionPolicy(dominant).Scores(layer);
        using var first = TokenPlan.Select(scores, dominant, layer.VisualSegments(), backend: layer.Backend);
        if (_contextual == 0)
            return first.Within(layer.Protected, layer.Length);

        // Every ⌊rest / contextual⌋th of the rest, from its first.
        var rest = torch.tensor(Enumerable.Range(0, layer.Images)
            .Select(b => (long)layer.VisualTokensOf(b) - first.Counts[b]).ToArray()).unsqueeze(1);
        var there = torch.arange(layer.VisualTokens).unsqueeze(0).lt(rest + torch.tensor(
            first.Counts.Select(count => (long)count).ToArray()).unsqueeze(1));
        var others = first.Keep().logical_not().logical_and(there);
        var place = others.cumsum(1) - 1;
        var step = rest.div(_contextual, torch.RoundingMode.floor).clamp_min(1);
        var targets = others.logical_and(place.remainder(step).eq(0))
            .logical_and(place.div(step, torch.RoundingMode.floor).lt(_contextual));

        using var visual = TokenPlan.Select(
            first.Keep().logical_or(targets).to(torch.float32), Budget.Threshold(1), layer.VisualSegments(), backend: layer.Backend);
        var plan = visual.Within(layer.Protected, layer.Length);
        var all = torch.cat([torch.zeros(layer.Images, layer.Protected, torch.@bool), targets], 1);
        return new SupplementedPlan(plan, TokenMerging.Assign(plan, layer.Keys.mean([1]), all, withTarget: false));
    }
}
