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
                    Restore(work.Cache.Keys, b, kvHead, t, scores.Length, row);
                    for (var i = 0; i < d; i++)
                        scores[t] += (double)query[i] * row[i];
                    scores[t] *= work.Scale;
                    greatest = Math.Max(greatest, scores[t]);
                }

                Array.Clear(sums);
                var total = 0.0;
                for (var t = 0; t < scores.Length; t++)
                {
                    Restore(work.Cache.Values, b, kvHead, t, scores.Length, row);
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

    private static unsafe void Restore(in KvPlane plane, int b, int kvHead, int position, int length, float[] row)
    {
        fixed (float* destination = row)
        {
            if (position >= plane.Quantised(length))
            {
                new ReadOnlySpan<float>(plane.RingRows(b, kvHead, position, out _), row.Length).CopyTo(row);
                return;
            }

            if (plane.IsBlocked)
            {
                RestoreFromBlock(plane, b, kvHead, position, row);
                return;
            }

            KvQuantise.RunReference(
                new(row.Length, plane.Format, plane.Scale(kvHead), destination, plane.Row(b, kvHead, position), isRestore: true));
        }
    }

    // A block of 32 positions is a group for each channel.
    private static unsafe void RestoreFromBlock(in KvPlane plane, int b, int kvHead, int position, float[] row)
    {
        var block = position / KiviGroup.Elements * KiviGroup.Elements;
        var group = stackalloc float[KiviGroup.Elements];
        for (var channel = 0; channel < row.Length; channel++)
        {
            var bytes = plane.Row(b, kvHead, block) + channel * KiviGroup.Bytes;
            KvQuantise.RunReference(new(KiviGroup.Elements, plane.Format, 1, group, bytes, isRestore: true));
            row[channel] = group[position - block];
        }
    }
}
