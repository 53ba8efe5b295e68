using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// Says which tokens of a layer's cache are worth keeping: the greater the score, the longer a token stays. Implement it for a rule of your
/// own and pass it to <see cref="CausalDecoder.CompressKv"/>.
/// </summary>
public interface IKvScorer
{
    /// <summary>What is to be gathered for this rule beside keys and values.</summary>
    KvScorerNeeds Needs { get; }

    /// <summary>How a layer's budget is divided among its heads.</summary>
    KvHeadAllocation Allocation => KvHeadAllocation.OwnBudget;

    /// <summary>Scores the tokens of one layer of one sequence.</summary>
    /// <param name="context">What they are. Where heads hold different tokens, each head is asked for by itself.</param>
    /// <param name="scores">[H, n], to be written. +∞ is kept before all others; of equal scores the earlier token is kept first.</param>
    void Score(in KvScoreContext context, Span<float> scores);
}

/// <summary>How the budget of a layer is divided among its heads.</summary>
/// <param name="Floor">
/// Null: each head keeps its own budget. Else the heads compete for the sum of their budgets, and each keeps at least this share of its
/// own, within [0, 1].
/// </param>
public readonly record struct KvHeadAllocation(double? Floor)
{
    /// <summary>Each head keeps the best of its own.</summary>
    public static KvHeadAllocation OwnBudget => new(null);
}

/// <summary>What a rule wants to know beside keys and values.</summary>
public readonly record struct KvScorerNeeds
{
    /// <summary>How many of the latest queries.</summary>
    public int QueryWindow { get; init; }

    /// <summary>Whether mean and covariance of the prompt's queries. They are there when a prompt was read, not while decoding.</summary>
    public bool QueryStatistics { get; init; }

    /// <summary>How many of the prompt's first queries are left out of them.</summary>
    public int StatisticsSkip { get; init; }

    /// <summary>Whether the attention that each token has received so far.</summary>
    public bool AttentionSums { get; init; }
}

/// <summary>The tokens of one layer of one sequence, as a rule sees them. Query head h reads the keys of head h / (Hq / H).</summary>
public readonly ref struct KvScoreContext
{
    /// <summary>Which layer.</summary>
    public required int Layer { get; init; }

    /// <summary>H: how many heads of keys and values.</summary>
    public required int Heads { get; init; }

    /// <summary>Hq: how many query heads, a multiple of H.</summary>
    public required int QueryHeads { get; init; }

    /// <summary>d: elements of a head.</summary>
    public required int HeadDim { get; init; }

    /// <summary>n: how many tokens each head holds.</summary>
    public required int Length { get; init; }

    /// <summary>[H, n, d], rotated.</summary>
    public required ReadOnlySpan<float> Keys { get; init; }

    /// <summary>[H, n, d].</summary>
    public required ReadOnlySpan<float> Values { get; init; }

    /// <summary>[n]: the position of each token.</summary>
    public required ReadOnlySpan<int> Positions { get; init; }

    /// <summary>The position of the token that comes next.</summary>
    public required int NextPosition { get; init; }

    /// <summary>How the model rotates.</summary>
    public required RotaryOptions Rotary { get; init; }

    /// <summary>w: how many queries there are, at most <see cref="KvScorerNeeds.QueryWindow"/>, and at most n.</summary>
    public int QueryRows { get; init; }

    /// <summary>[Hq, w, d]: the latest queries, rotated; the last is that of the last token.</summary>
    public ReadOnlySpan<float> Queries { get; init; }

    /// <summary>[Hq, d]: the mean of the queries before they are rotated.</summary>
    public ReadOnlySpan<float> QueryMean { get; init; }

    /// <summary>[Hq, d, d]: their covariance, over their number.</summary>
    public ReadOnlySpan<float> QueryCovariance { get; init; }

    /// <summary>[H, n]: the attention that each token got from all queries so far, summed over the query heads of its group.</summary>
    public ReadOnlySpan<float> AttentionSums { get; init; }

    /// <summary>[d]: a token's key.</summary>
    public ReadOnlySpan<float> Key(int head, int token) => Keys.Slice((head * Length + token) * HeadDim, HeadDim);

    /// <summary>[d]: a token's value.</summary>
    public ReadOnlySpan<float> Value(int head, int token) => Values.Slice((head * Length + token) * HeadDim, HeadDim);

    /// <summary>
    /// The attention of the latest queries to each token of a head: the mean over them and over the group's query heads.
    /// </summary>
    internal void MeanAttention(int head, Span<float> scores)
    {
        var group = QueryHeads / Heads;
        TokenScores.Run(
            Queries.Slice(head * group * QueryRows * HeadDim, group * QueryRows * HeadDim),
            Keys.Slice(head * Length * HeadDim, Length * HeadDim), group, 1, HeadDim, scores, causal: true);
    }
}
