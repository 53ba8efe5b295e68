namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>
    /// Scores, softmax and sum in double, a query head after the other, from the numbers that the stored bytes stand for.
    /// </summary>
    private static unsafe void RunReference(in KvAttentionWork work)
    {
        var (shape, d) = (work.Shape, work.Shape.HeadDim);
        var (row, scores, sums) = (new float[d], new double[shape.Capacity], new double[d]);
        for (var b = 0; b < shape.Batch; b++)
        {
            for (var head = 0; head < shape.QueryHeads; head++)
            {
                var query = new ReadOnlySpan<float>(work.Query(b, head), d);
                var (keys, values) = (new StoredRows(work.Keys(b, head / shape.HeadsPerGroup), work.KeyFormat, d),
                    new StoredRows(work.Values(b, head / shape.HeadsPerGroup), work.ValueFormat, d));
                var (greatest, total) = (double.NegativeInfinity, 0.0);
                for (var t = 0; t < work.Length(b); t++)
                {
                    keys.Restore(t, row);
                    scores[t] = 0;
                    for (var i = 0; i < d; i++)
                        scores[t] += (double)query[i] * row[i];
                    scores[t] *= work.Scale;
                    greatest = Math.Max(greatest, scores[t]);
                }

                Array.Clear(sums);
                for (var t = 0; t < work.Length(b); t++)
                {
                    values.Restore(t, row);
                    var weight = Math.Exp(scores[t] - greatest);
                    total += weight;
                    for (var i = 0; i < d; i++)
                        sums[i] += weight * row[i];
                }

                for (var i = 0; i < d; i++)
                    work.Output(b, head)[i] = work.Length(b) == 0 ? 0 : (float)(sums[i] / total);
            }
        }
    }

    /// <summary>The stored rows of a head.</summary>
    private readonly unsafe struct StoredRows(byte* first, KvFormat format, int elements)
    {
        public void Restore(int position, float[] row)
        {
            fixed (float* destination = row)
            {
                var bytes = first + position * format.ByteCount(elements);
                KvQuantise.RunReference(new(elements, format, 1, destination, bytes, isRestore: true));
            }
        }
    }
}
