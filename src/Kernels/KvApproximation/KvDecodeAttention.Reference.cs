namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>
    /// Scores, softmax and sum in double, a query head after the other, from the numbers that the stored bytes stand for.
    /// </summary>
    private static unsafe void RunReference(in KvAttentionWork work)
    {
        var (shape, d) = (work.Shape, work.Shape.HeadDim);
        var (row, sums) = (new float[d], new double[d]);
        for (var b = 0; b < shape.Batch; b++)
        {
            for (var head = 0; head < shape.QueryHeads; head++)
            {
                var kvHead = head / shape.HeadsPerGroup;
                var scores = new double[work.Length(b, kvHead)];
                var query = new ReadOnlySpan<float>(work.Query(b, head), d);
                var greatest = double.NegativeInfinity;
                for (var t = 0; t < scores.Length; t++)
                {
                    Restore(work.Cache.Keys, b, kvHead, t, row);
                    for (var i = 0; i < d; i++)
                        scores[t] += (double)query[i] * row[i];
                    scores[t] *= work.Scale;
                    greatest = Math.Max(greatest, scores[t]);
                }

                Array.Clear(sums);
                var total = 0.0;
                for (var t = 0; t < scores.Length; t++)
                {
                    Restore(work.Cache.Values, b, kvHead, t, row);
                    var weight = Math.Exp(scores[t] - greatest);
                    scores[t] = weight;
                    total += weight;
                    for (var i = 0; i < d; i++)
                        sums[i] += weight * row[i];
                }

                for (var i = 0; i < d; i++)
                    work.Output(b, head)[i] = scores.Length == 0 ? 0 : (float)(sums[i] / total);
                for (var t = 0; t < scores.Length && work.PositionSums != null; t++)
                    work.Sums(b, kvHead)[t] += (float)(scores[t] / total);
            }
        }
    }

    private static unsafe void Restore(in KvPlane plane, int b, int kvHead, int position, float[] row)
    {
        fixed (float* destination = row)
        {
            KvQuantise.RunReference(
                new(row.Length, plane.Format, plane.Scale(kvHead), destination, plane.Row(b, kvHead, position), isRestore: true));
        }
    }
}
