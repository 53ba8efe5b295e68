namespace AuxCore.Models;

/// <summary>
/// StreamingLLM (Xiao et al. 2023, arXiv 2309.17453): the first tokens, to which models give attention that they have no use for, and the
/// latest.
/// </summary>
/// <param name="sinks">How many of the first are kept; 4 in the paper.</param>
public sealed class StreamingLlm(int sinks = 4) : IKvScorer
{
    private readonly int _sinks = Scores.RequireCount(sinks, nameof(sinks));

    /// <inheritdoc/>
    public KvScorerNeeds Needs => default;

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        for (var i = 0; i < scores.Length; i++)
            scores[i] = i % context.Length;
        Scores.KeepFirst(context, scores, _sinks);
    }
}

/// <summary>
/// The norm of keys (Devoto et al. 2024, arXiv 2406.11430): keys of small norm get much attention, so they are kept. Score −‖k‖.
/// </summary>
public sealed class KNorm : IKvScorer
{
    /// <inheritdoc/>
    public KvScorerNeeds Needs => default;

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        for (var i = 0; i < scores.Length; i++)
            scores[i] = (float)-Scores.Norm(context.Key(i / context.Length, i % context.Length));
    }
}

/// <summary>
/// KeyDiff (Park et al. 2025, arXiv 2504.15364): keys that are unlike the others are kept. Score −cos(k, k̄), where k̄ is the mean of the
/// keys, each of them of norm 1.
/// </summary>
public sealed class KeyDiff : IKvScorer
{
    /// <inheritdoc/>
    public KvScorerNeeds Needs => default;

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        var mean = new double[context.HeadDim];
        for (var head = 0; head < context.Heads; head++)
        {
            Array.Clear(mean);
            for (var i = 0; i < context.Length; i++)
            {
                var key = context.Key(head, i);
                var norm = Math.Max(Scores.Norm(key), Scores.LeastNorm);
                for (var c = 0; c < mean.Length; c++)
                    mean[c] += key[c] / norm / context.Length;
            }

            var length = Math.Max(Math.Sqrt(mean.Sum(x => x * x)), Scores.LeastNorm);
            for (var i = 0; i < context.Length; i++)
            {
                var key = context.Key(head, i);
                var dot = 0.0;
                for (var c = 0; c < mean.Length; c++)
                    dot += key[c] * mean[c];
                scores[head * context.Length + i] = (float)(-dot / (length * Math.Max(Scores.Norm(key), Scores.LeastNorm)));
            }
        }
    }
}

/// <summary>
/// CurDKV (Sengupta et al. 2025, arXiv 2509.15038): leverage of rows in a CUR decomposition of keys and of values, in the approximation by
/// squared norms, each relative to the sum of its window of tokens. Question-agnostic: it looks at keys and values only.
/// Score ‖k‖² / Σ‖k‖² · ‖v‖² / Σ‖v‖².
/// </summary>
/// <param name="window">How many neighbouring tokens share a sum.</param>
/// <param name="sinks">How many of the first are always kept.</param>
public sealed class CurDkv(int window = 16, int sinks = 4) : IKvScorer
{
    private readonly int _window = Scores.RequirePositive(window, nameof(window)), _sinks = Scores.RequireCount(sinks, nameof(sinks));

    /// <inheritdoc/>
    public KvScorerNeeds Needs => default;

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        for (var head = 0; head < context.Heads; head++)
        {
            for (var from = 0; from < context.Length; from += _window)
            {
                var to = Math.Min(from + _window, context.Length);
                double keys = 0, values = 0;
                for (var i = from; i < to; i++)
                {
                    keys += Square(context.Key(head, i));
                    values += Square(context.Value(head, i));
                }

                for (var i = from; i < to; i++)
                {
                    scores[head * context.Length + i] = keys == 0 || values == 0
                        ? 0
                        : (float)(Square(context.Key(head, i)) / keys * (Square(context.Value(head, i)) / values));
                }
            }
        }

        Scores.KeepFirst(context, scores, _sinks);

        static double Square(ReadOnlySpan<float> row)
        {
            var norm = Scores.Norm(row);
            return norm * norm;
        }
    }
}

/// <summary>
/// LagKV (Liang et al. 2025, arXiv 2504.04704): tokens are parted into lags; a token is scored by how much its channels, scaled to the
/// range that they have in the next lag, differ among each other. Scores are ranks within a lag, by softmax of keys' plus that of values'
/// deviations. The first tokens, the last whole lag and what is behind it are kept.
/// </summary>
/// <param name="lag">Tokens of a lag; 128 in the paper. Below two lags there are no scores, and the latest tokens are kept.</param>
/// <param name="sinks">How many of the first are always kept.</param>
public sealed class LagKv(int lag = 128, int sinks = 4) : IKvScorer
{
    private readonly int _lag = Scores.RequirePositive(lag, nameof(lag)), _sinks = Scores.RequireCount(sinks, nameof(sinks));

    /// <inheritdoc/>
    public KvScorerNeeds Needs => default;

    /// <inheritdoc/>
    public void Score(in KvScoreContext context, Span<float> scores)
    {
        var lags = Math.Max(0, (context.Length - _sinks) / _lag);
        for (var head = 0; head < context.Heads; head++)
        {
            var row = scores.Slice(head * context.Length, context.Length);
            if (lags < 2)
            {
                for (var i = 0; i < row.Length; i++)
                    row[i] = i;
                continue;
            }

            row.Fill(float.PositiveInfinity);
            for (var part = 0; part < lags - 1; part++)
                Rank(context, head, _sinks + part * _lag, row.Slice(_sinks + part * _lag, _lag));
        }

        Scores.KeepFirst(context, scores, _sinks);
    }

    private void Rank(in KvScoreContext context, int head, int from, Span<float> scores)
    {
        double[] keys = Deviations(context, context.Keys, head, from), values = Deviations(context, context.Values, head, from);
        Scores.Softmax(keys);
        Scores.Softmax(values);
        var sums = keys.Zip(values, (k, v) => (float)(k + v)).ToArray();
        int[] worstFirst = [.. Enumerable.Range(0, _lag).OrderBy(i => sums[i]).ThenByDescending(i => i)];
        for (var rank = 0; rank < _lag; rank++)
            scores[worstFirst[rank]] = (float)rank / _lag;
    }

    /// <summary>The standard deviation over the channels of each token of a lag, scaled by the next one.</summary>
    private double[] Deviations(in KvScoreContext context, ReadOnlySpan<float> rows, int head, int from)
    {
        var depth = context.HeadDim;
        var first = (head * context.Length + from) * depth;
        double[] least = new double[depth], range = new double[depth], result = new double[_lag];
        for (var c = 0; c < depth; c++)
        {
            double low = double.PositiveInfinity, high = double.NegativeInfinity;
            for (var i = _lag; i < 2 * _lag; i++)
            {
                low = Math.Min(low, rows[first + i * depth + c]);
                high = Math.Max(high, rows[first + i * depth + c]);
            }

            (least[c], range[c]) = (low, high - low);
        }

        var scaled = new double[depth];
        for (var i = 0; i < _lag; i++)
        {
            for (var c = 0; c < depth; c++)
                scaled[c] = range[c] == 0 ? 0 : (rows[first + i * depth + c] - least[c]) / range[c];
            var mean = scaled.Average();
            result[i] = depth == 1 ? 0 : Math.Sqrt(scaled.Sum(x => (x - mean) * (x - mean)) / (depth - 1));
        }

        return result;
    }
}

/// <summary>What rules share.</summary>
internal static class Scores
{
    public const double LeastNorm = 1e-12;

    public static double Norm(ReadOnlySpan<float> row)
    {
        var sum = 0.0;
        foreach (var x in row)
            sum += (double)x * x;
        return Math.Sqrt(sum);
    }

    /// <summary>The first tokens of each head are kept before all others.</summary>
    public static void KeepFirst(in KvScoreContext context, Span<float> scores, int count)
    {
        for (var head = 0; head < context.Heads; head++)
            scores.Slice(head * context.Length, Math.Min(count, context.Length)).Fill(float.PositiveInfinity);
    }

    /// <summary>The last tokens of a head are kept before all others.</summary>
    public static void KeepLast(Span<float> scores, int count) => scores[^Math.Min(count, scores.Length)..].Fill(float.PositiveInfinity);

    public static void Softmax(Span<double> row)
    {
        var (most, sum) = (double.NegativeInfinity, 0.0);
        foreach (var x in row)
            most = Math.Max(most, x);
        foreach (ref var x in row)
            sum += x = Math.Exp(x - most);
        foreach (ref var x in row)
            x /= sum;
    }

    public static int RequirePositive(int value, string name)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(value, 1, name);
        return value;
    }

    public static int RequireCount(int value, string name)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(value, name);
        return value;
    }
}
