using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>A control for the others: random visual tokens go on.</summary>
/// <param name="layers">After how many layers.</param>
/// <param name="budget">How many go on.</param>
/// <param name="seed">Of the choice: the same tokens for the same seed and layout.</param>
public sealed class RandomPruning(int layers, Budget budget, int seed) : ScoredPruning([(layers, budget)])
{
    /// <inheritdoc/>
    protected override float[] Scores(DecoderState state)
    {
        ArgumentNullException.ThrowIfNull(state);
        var random = new Random(seed);
        return [.. Enumerable.Range(0, state.Layout.VisualTokens).Select(_ => random.NextSingle())];
    }
}

/// <summary>A control for the others: visual tokens at even steps go on.</summary>
/// <param name="layers">After how many layers.</param>
/// <param name="ratio">The share that goes on: k = ⌊ratio · n + ½⌋ of n, token ⌊(i + ½) n / k⌋ for each i below k.</param>
public sealed class StridePruning(int layers, double ratio) : ScoredPruning([(layers, Budget.Ratio(ratio))])
{
    /// <inheritdoc/>
    protected override float[] Scores(DecoderState state)
    {
        ArgumentNullException.ThrowIfNull(state);
        var segments = state.Layout.VisualSegments;
        var scores = new float[state.Layout.VisualTokens];
        for (var b = 0; b < state.Layout.Batch; b++)
        {
            var n = segments[b + 1] - segments[b];
            var kept = (int)Math.Floor(ratio * n + 0.5);
            for (var i = 0L; i < kept; i++)
                scores[segments[b] + (2 * i + 1) * n / (2 * kept)] = 1;
        }

        return scores;
    }
}

/// <summary>A control for <see cref="FastV"/>: the tokens go on that it would drop first.</summary>
/// <param name="layers">After how many layers.</param>
/// <param name="budget">How many go on.</param>
public sealed class LeastAttended(int layers, Budget budget) : ScoredPruning([(layers, budget)])
{
    /// <inheritdoc/>
    protected override float[] Scores(DecoderState state)
    {
        ArgumentNullException.ThrowIfNull(state);
        return [.. state.LastQueryAttention(state.Queries, state.Keys).Select(score => -score)];
    }
}

/// <summary>
/// A control for the others: visual tokens are averaged by windows of their grid, each mean at the place of the window's first token.
/// </summary>
/// <param name="layers">After how many layers.</param>
/// <param name="grid">Windows that do not share tokens; each sequence has one image of that grid.</param>
public sealed class PooledPruning(int layers, PoolGrid grid) : DecoderPruning([layers])
{
    private readonly int[] _owners = OwnersOf(grid);

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">A sequence has another number of visual tokens than the grid.</exception>
    protected internal override VisualSelection Choose(DecoderState state, int cut)
    {
        ArgumentNullException.ThrowIfNull(state);
        var segments = state.Layout.VisualSegments;
        var owners = new int[state.Layout.VisualTokens];
        for (var b = 0; b < state.Layout.Batch; b++)
        {
            if (segments[b + 1] - segments[b] != grid.Tokens)
            {
                throw new ArgumentException(
                    $"sequence {b} has {segments[b + 1] - segments[b]} visual tokens, but the grid is {grid.Height} x {grid.Width}",
                    nameof(state));
            }

            for (var token = 0; token < grid.Tokens; token++)
                owners[segments[b] + token] = segments[b] + _owners[token];
        }

        return VisualSelection.Groups(owners, state.Layout);
    }

    private static int[] OwnersOf(PoolGrid grid)
    {
        if (grid.Cells == 0)
            throw new ArgumentException("grid: a default value; make one by PoolGrid.Window", nameof(grid));
        var owners = new int[grid.Tokens];
        for (var row = 0; row < grid.Height; row++)
        {
            for (var column = 0; column < grid.Width; column++)
            {
                var (rows, columns) = (grid.CellRowsOf(row), grid.CellColumnsOf(column));
                if (rows.To - rows.From != 1 || columns.To - columns.From != 1)
                    throw new ArgumentException("grid: cells share tokens; take PoolGrid.Window", nameof(grid));
                owners[row * grid.Width + column] =
                    grid.RowsOf(rows.From).From * grid.Width + grid.ColumnsOf(columns.From).From;
            }
        }

        return owners;
    }
}
