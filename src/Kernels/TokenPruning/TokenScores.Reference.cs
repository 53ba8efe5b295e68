namespace AuxCore.Kernels;

public static partial class TokenScores
{
    /// <summary>The formula of the class, row by row, in double.</summary>
    private static unsafe void RunReference(TokenScoresWork work)
    {
        var logits = new double[work.Tokens];
        for (var b = 0; b < work.Batch; b++)
        {
            var scores = new double[work.Tokens];
            for (var head = 0; head < work.QueryHeads; head++)
            {
                for (var row = 0; row < work.Rows; row++)
                {
                    var (seen, query) = (work.Seen(row), work.QueryAt(b, head, row));
                    for (var token = 0; token < seen; token++)
                        logits[token] = work.Scale * ReferenceDot(work, query, work.KeyAt(b, head / work.Group, token));
                    var largest = logits.AsSpan(0, seen).ToArray().DefaultIfEmpty().Max();
                    var logSumExp = work.LogSumExp != null
                        ? work.LogSumExpOf(b, head, row)
                        : largest + Math.Log(logits.Take(seen).Sum(logit => Math.Exp(logit - largest)));
                    for (var token = 0; token < seen; token++)
                        scores[token] += work.Weight(head) * Math.Exp(logits[token] - logSumExp);
                }
            }

            for (var token = 0; token < work.Tokens; token++)
                work.Scores[(long)b * work.Tokens + token] = (float)scores[token];
        }
    }

    private static unsafe double ReferenceDot(in TokenScoresWork work, long query, long key)
    {
        var sum = 0.0;
        for (var k = 0; k < work.Depth; k++)
        {
            sum += (double)ReferenceFormat.Widen(work.Queries, work.DType, query + k)
                * ReferenceFormat.Widen(work.Keys, work.DType, key + k);
        }

        return sum;
    }
}
