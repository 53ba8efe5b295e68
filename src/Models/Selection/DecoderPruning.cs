using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// A policy that drops or merges visual tokens between layers of a decoder, while it reads a prompt or learns. Text tokens always go on.
/// Layers before a cut cache all tokens, layers behind it those that went on.
/// </summary>
/// <remarks>A policy holds no state of a run and may be used again and by several threads.</remarks>
public abstract class DecoderPruning
{
    /// <param name="cuts">After how many layers it prunes: ascending, at least 1.</param>
    /// <param name="positions">What becomes of positions.</param>
    /// <exception cref="ArgumentException">Cuts do not ascend from 1.</exception>
    protected DecoderPruning(IReadOnlyList<int> cuts, PositionMode positions = PositionMode.Keep)
    {
        ArgumentNullException.ThrowIfNull(cuts);
        for (var i = 0; i < cuts.Count; i++)
        {
            if (cuts[i] <= (i == 0 ? 0 : cuts[i - 1]))
                throw new ArgumentException($"cuts: [{string.Join(", ", cuts)}] do not ascend from 1", nameof(cuts));
        }

        if (!Enum.IsDefined(positions))
            throw new ArgumentOutOfRangeException(nameof(positions), positions, "It is no position mode.");
        (Cuts, Positions) = ([.. cuts], positions);
    }

    /// <summary>After how many layers it prunes, ascending.</summary>
    public IReadOnlyList<int> Cuts { get; }

    /// <summary>What becomes of positions.</summary>
    public PositionMode Positions { get; }

    /// <summary>Decides at a cut.</summary>
    /// <param name="state">What the decoder has so far.</param>
    /// <param name="cut">Which of <see cref="Cuts"/> it is, from 0.</param>
    /// <returns>What goes on, for the layout of the state.</returns>
    protected internal abstract VisualSelection Choose(DecoderState state, int cut);
}

/// <summary>A policy that keeps the tokens of highest score; one budget a cut.</summary>
public abstract class ScoredPruning : DecoderPruning
{
    private readonly Budget[] _budgets;

    /// <param name="cuts">After how many layers it prunes, and how many of the visual tokens that are still there go on.</param>
    /// <param name="positions">What becomes of positions.</param>
    /// <exception cref="ArgumentException">Cuts do not ascend from 1.</exception>
    protected ScoredPruning(IReadOnlyList<(int Layers, Budget Budget)> cuts, PositionMode positions = PositionMode.Keep)
        : base([.. (cuts ?? throw new ArgumentNullException(nameof(cuts))).Select(cut => cut.Layers)], positions) =>
        _budgets = [.. cuts.Select(cut => cut.Budget)];

    /// <inheritdoc/>
    protected internal override VisualSelection Choose(DecoderState state, int cut)
    {
        ArgumentNullException.ThrowIfNull(state);
        return VisualSelection.Highest(Scores(state), state.Layout, _budgets[cut]);
    }

    /// <summary>The score of each visual token.</summary>
    protected abstract float[] Scores(DecoderState state);
}

/// <summary>
/// FastV (Chen et al. 2024, arXiv 2403.06764): after K layers the visual tokens that the last prompt token attends to most go on, by the
/// mean over heads of that layer's attention. Positions are kept.
/// </summary>
/// <param name="layers">K, 2 in the paper.</param>
/// <param name="budget">How many go on; the paper's rate R of dropped ones is <c>Budget.Ratio(1 − R)</c>.</param>
public sealed class FastV(int layers, Budget budget) : ScoredPruning([(layers, budget)])
{
    /// <inheritdoc/>
    protected override float[] Scores(DecoderState state)
    {
        ArgumentNullException.ThrowIfNull(state);
        return state.LastQueryAttention(state.Queries, state.Keys);
    }
}

/// <summary>
/// PyramidDrop (Xing et al. 2024, arXiv 2410.17247): the same question asked at several depths, of the query and key projections of the
/// layer that comes next. Positions are numbered anew. In training the released code averages over the tokens before the answers; here it
/// is the last token of each sequence throughout.
/// </summary>
/// <param name="cuts">
/// After how many layers it prunes, and the share of the tokens still there that go on: (8, 0.5), (16, 0.5), (24, 0.5) in the paper.
/// </param>
public sealed class PyramidDrop(IReadOnlyList<(int Layers, double Ratio)> cuts) : ScoredPruning(
    [.. (cuts ?? throw new ArgumentNullException(nameof(cuts))).Select(cut => (cut.Layers, Budget.Ratio(cut.Ratio)))],
    PositionMode.Renumber)
{
    /// <inheritdoc/>
    protected override float[] Scores(DecoderState state)
    {
        ArgumentNullException.ThrowIfNull(state);
        using var scope = TorchSharp.torch.NewDisposeScope();
        var (queries, keys) = state.ProjectNext();
        return state.LastQueryAttention(queries, keys);
    }
}
