using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Expected attention (Devoto et al. 2025, arXiv 2510.00636): the attention that queries to come will give, if they are distributed as
/// those of the prompt, times the norm of the value. With mean μ and covariance Σ of the unrotated queries, and R̄ the mean rotation of the
/// positions ahead, a key scores softmax(kᵀR̄μ / √d + kᵀR̄ΣR̄ᵀk / 2d), averaged over the query heads of its group, times ‖v‖.
/// </summary>
/// <remarks>It works when a prompt is read, not while decoding.</remarks>
/// <param name="futurePositions">How many positions ahead; 512 in kvpress.</param>
/// <param name="sinks">How many of the first tokens are always kept, and have no part in the softmax and the statistics.</param>
public sealed class ExpectedAttention(int futurePositions = 512, int sinks = 4) : IKvScorer
{
    private readonly int _future = Scores.RequirePositive(futurePositions, nameof(futurePositions));
    private readonly int _sinks = Scores.RequireCount(sinks, nameof(sinks));

    /// <inheritdoc/>
    public KvScorerNeeds Needs => new() { QueryStatistics = true, StatisticsSkip = _sinks };

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        var (depth, n, group) = (context.HeadDim, context.Length, context.QueryHeads / context.Heads);
        var first = Math.Min(_sinks, n);
        var turn = MeanTurn(context);
        var logits = new double[n - first];
        for (var head = 0; head < context.Heads; head++)
        {
            using var scope = torch.NewDisposeScope();
            using var noGrad = torch.no_grad();
            var keys = Of(context.Keys.Slice(head * n * depth, n * depth), n, depth);
            var mean = new double[n - first];
            for (var q = head * group; q < (head + 1) * group; q++)
            {
                var mu = Of(context.QueryMean.Slice(q * depth, depth), depth, 1);
                var sigma = Of(context.QueryCovariance.Slice(q * depth * depth, depth * depth), depth, depth);
                var linear = torch.matmul(keys, torch.matmul(turn, mu)).squeeze(1) / Math.Sqrt(depth);
                var turned = torch.matmul(torch.matmul(turn, sigma), turn.transpose(0, 1));
                var quadratic = (torch.matmul(keys, turned) * keys).sum(new long[] { 1 }) / (2.0 * depth);
                (linear + quadratic).data<double>().ToArray().AsSpan(first).CopyTo(logits);
                Scores.Softmax(logits);
                for (var i = 0; i < logits.Length; i++)
                    mean[i] += logits[i] / group;
            }

            for (var i = 0; i < mean.Length; i++)
                scores[head * n + first + i] = (float)(mean[i] * Scores.Norm(context.Value(head, first + i)));
        }

        Scores.KeepFirst(context, scores, _sinks);

        static Tensor Of(ReadOnlySpan<float> elements, long rows, long columns) =>
            torch.tensor(elements.ToArray()).view(rows, columns).to(torch.float64);
    }

    /// <summary>R̄, [d, d]: the mean of the rotations to the positions ahead.</summary>
    private Tensor MeanTurn(in KvScoreContext context)
    {
        var depth = context.HeadDim;
        var rotated = context.Rotary.Check(depth);
        var (half, frequencies) = (rotated / 2, context.Rotary.FrequenciesOf(rotated));
        var turn = new double[depth, depth];
        for (var c = rotated; c < depth; c++)
            turn[c, c] = 1;
        for (var pair = 0; pair < half; pair++)
        {
            for (var ahead = 0; ahead < _future; ahead++)
            {
                var (sine, cosine) = Math.SinCos((context.NextPosition + (double)ahead) * frequencies[pair]);
                turn[pair, pair] += cosine / _future;
                turn[pair + half, pair + half] += cosine / _future;
                turn[pair, pair + half] -= sine / _future;
                turn[pair + half, pair] += sine / _future;
            }
        }

        return torch.tensor(turn);
    }
}
