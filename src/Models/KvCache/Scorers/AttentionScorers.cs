namespace AuxCore.Models;

/// <summary>
/// TOVA (Oren et al. 2024, arXiv 2401.06104): the attention of the last query, the mean over all heads, so that all heads keep the same
/// tokens. The last token is always kept.
/// </summary>
public sealed class Tova : IKvScorer
{
    /// <inheritdoc/>
    public KvScorerNeeds Needs => new() { QueryWindow = 1 };

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        var mean = new double[context.Length];
        var row = new float[context.Length];
        for (var head = 0; head < context.Heads; head++)
        {
            context.MeanAttention(head, row);
            for (var i = 0; i < row.Length; i++)
                mean[i] += (double)row[i] / context.Heads;
        }

        for (var i = 0; i < scores.Length; i++)
            scores[i] = (float)mean[i % mean.Length];
        for (var head = 0; head < context.Heads; head++)
            Scores.KeepLast(scores.Slice(head * context.Length, context.Length), 1);
    }
}

/// <summary>
/// SnapKV (Li et al. 2024, arXiv 2404.14469): the attention of the prompt's last queries, the mean over them and over the query heads of a
/// group, then over neighbouring tokens, because information about a token is in its neighbours too. The tokens of those queries are kept.
/// </summary>
/// <param name="window">How many of the last queries; 64 in kvpress, 16 or 32 in the paper.</param>
/// <param name="kernel">Over how many neighbours, an odd number; 5 in the paper.</param>
public sealed class SnapKv(int window = 64, int kernel = 5) : IKvScorer
{
    private readonly int _window = Scores.RequirePositive(window, nameof(window));
    private readonly int _kernel = kernel >= 1 && kernel % 2 == 1
        ? kernel
        : throw new ArgumentOutOfRangeException(nameof(kernel), kernel, "It is odd and at least 1.");

    /// <inheritdoc/>
    public KvScorerNeeds Needs => new() { QueryWindow = _window };

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        var row = new float[context.Length];
        var before = Math.Max(0, context.Length - _window);
        for (var head = 0; head < context.Heads; head++)
        {
            context.MeanAttention(head, row);
            var target = scores.Slice(head * context.Length, context.Length);
            for (var i = 0; i < before; i++)
            {
                // What is beyond either end counts as 0.
                var sum = 0.0;
                for (var k = Math.Max(0, i - _kernel / 2); k <= Math.Min(before - 1, i + _kernel / 2); k++)
                    sum += row[k];
                target[i] = (float)(sum / _kernel);
            }

            Scores.KeepLast(target, _window);
        }
    }
}

/// <summary>
/// Heavy hitters (H2O; Zhang et al. 2023, arXiv 2306.14048): the attention that a token has got from all queries, over how many could see
/// it. Attention is summed where it is computed, and no matrix of it is kept. After <see cref="KvCache.Rewind(int)"/> the sums of what is
/// left still have the attention of what was forgotten.
/// </summary>
/// <param name="recent">How many of the latest tokens are always kept; in the paper, half of the budget.</param>
public sealed class H2O(int recent = 0) : IKvScorer
{
    private readonly int _recent = Scores.RequireCount(recent, nameof(recent));

    /// <inheritdoc/>
    public KvScorerNeeds Needs => new() { AttentionSums = true };

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        for (var i = 0; i < scores.Length; i++)
            scores[i] = context.AttentionSums[i] / (context.NextPosition - context.Positions[i % context.Length]);
        for (var head = 0; head < context.Heads && _recent > 0; head++)
            Scores.KeepLast(scores.Slice(head * context.Length, context.Length), _recent);
    }
}

/// <summary>
/// Ada-KV (Feng et al. 2024, arXiv 2407.11550): another rule's scores, for which the heads of a layer compete, so that heads whose
/// attention is spread keep more. Each keeps at least a share of its own budget. Heads then hold unequal numbers of tokens, in memory too.
/// </summary>
/// <param name="scorer">The rule.</param>
/// <param name="floor">That share, within [0, 1]; 0.2 in the paper.</param>
public sealed class AdaKv(IKvScorer scorer, double floor = 0.2) : IKvScorer
{
    private readonly IKvScorer _scorer = scorer ?? throw new ArgumentNullException(nameof(scorer));

    /// <inheritdoc/>
    public KvScorerNeeds Needs => _scorer.Needs;

    /// <inheritdoc/>
    public KvHeadAllocation Allocation { get; } = floor is >= 0 and <= 1
        ? new(floor)
        : throw new ArgumentOutOfRangeException(nameof(floor), floor, "It lies within [0, 1].");

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores) => _scorer.Score(context, scores);
}
