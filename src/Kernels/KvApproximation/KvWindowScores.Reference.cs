namespace AuxCore.Kernels;

public static partial class KvWindowScores
{
    /// <summary>Softmax by softmax, in double.</summary>
    private static unsafe void RunReference(in KvWindowWork work)
    {
        var (means, weights) = (new double[work.Positions], new double[work.Positions]);
        for (var head = 0; head < work.Heads; head++)
        {
            Array.Clear(means);
            for (var row = 0; row < work.Rows; row++)
            {
                var logits = work.Row(head, row);
                var seen = work.Seen(row);
                var (greatest, total) = (double.NegativeInfinity, 0.0);
                for (var j = 0; j < seen; j++)
                    greatest = Math.Max(greatest, logits[j] * work.Scale);
                for (var j = 0; j < seen; j++)
                    total += weights[j] = Math.Exp(logits[j] * work.Scale - greatest);
                for (var j = 0; j < seen; j++)
                    means[j] += weights[j] / total / work.Rows;
            }

            for (var j = 0; j < means.Length; j++)
                work.Scores(head)[j] = (float)means[j];
        }
    }
}
