using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>
/// DART (Wen et al., EMNLP 2025, arXiv 2502.11494): few pivots are kept, the tokens whose keys have the largest L1 norm, and for each pivot
/// in turn those of the others whose hidden states are least like its own, by cosine. Duplicates of pivots are what is dropped.
/// </summary>
/// <param name="budget">How many are kept, pivots included: <see cref="Budget.Count"/> or <see cref="Budget.Ratio"/>.</param>
/// <param name="pivots">
/// How many pivots; half the budget where that is less. The authors take four of the image and four of the text.
/// </param>
/// <remarks>
/// An encoder has no text, so all pivots are of the image. Each pivot gets an equal share of the budget among what is left, so that the
/// number kept is the budget's; the authors' sets may overlap.
/// </remarks>
/// <exception cref="ArgumentException">The budget depends on scores.</exception>
/// <exception cref="ArgumentOutOfRangeException">There is no pivot.</exception>
public sealed class Dart(Budget budget, int pivots = 8) : TokenPolicy
{
    private readonly Budget _budget = Unscored(budget, nameof(Dart));

    private readonly int _pivots =
        pivots > 0 ? pivots : throw new ArgumentOutOfRangeException(nameof(pivots), pivots, "At least one pivot is needed.");

    /// <inheritdoc/>
    /// <remarks>Images of one length only.</remarks>
    protected override TokenReduction Decide(PruningLayer layer)
    {
        ArgumentNullException.ThrowIfNull(layer);
        if (layer.Lengths is { } lengths && lengths.Any(length => length != layer.Length))
            throw new ArgumentException("Lengths: DART keeps as many of each image, so images are of one length", nameof(layer));
        var count = CountOf(_budget, layer.VisualTokens, nameof(Dart));
        var first = Math.Min(_pivots, (count + 1) / 2);
        var norms = layer.Visual(layer.Keys, 2).abs().sum(new long[] { 1, 3 });
        using var chosen = TokenPlan.Select(norms, Budget.Count(first), backend: layer.Backend);
        var hidden = torch.nn.functional.normalize(layer.Visual(layer.Hidden), dim: 2);
        var unlike = -torch.bmm(chosen.Apply(hidden), hidden.transpose(1, 2)); // [B, pivots, V]
        var kept = chosen.Keep();
        for (var pivot = 0; pivot < first; pivot++)
        {
            var until = first + (count - first) * (pivot + 1) / first;
            using var plan = TokenPlan.Select(
                unlike.select(1, pivot).contiguous(), Budget.Count(until), always: kept, backend: layer.Backend);
            kept = plan.Keep();
        }

        using var all = TokenPlan.Select(kept.to(torch.float32), Budget.Threshold(1), backend: layer.Backend);
        return all.Within(layer.Protected, layer.Length);
    }
}
