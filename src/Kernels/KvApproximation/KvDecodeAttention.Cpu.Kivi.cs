namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>Floats that a thread's loops keep scales in and, for KIVI's keys, queries and scores channel by channel.</summary>
    private static long ScaleFloats(int d) => KvRows.ScaleFloats(d) + Block * ((long)d + KiviGroup.Elements);

    /// <summary>
    /// Scores of whole blocks of KIVI's keys. A block is d rows, one a channel, of 32 positions: so its scores are rows that are weighted
    /// by the elements of the query and added up, as values are.
    /// </summary>
    private static unsafe void ScoreBlocks<TVector>(
        float* query, byte* keys, int count, int d, int heads, float* scores, float headScale, float* scales)
        where TVector : struct, IFloatVector<TVector>
    {
        const int Positions = KiviGroup.Elements;
        var channels = scales + KvRows.ScaleFloats(d);
        var sums = channels + Block * (long)d;
        for (var channel = 0; channel < d; channel++)
        {
            for (var head = 0; head < Block; head++)
                channels[channel * Block + head] = query[head * d + channel];
        }

        for (var from = 0; from < count; from += Positions, keys += d * (long)KiviGroup.Bytes)
        {
            new Span<float>(sums, Block * Positions).Clear();
            Mix<TVector, KiviRow>(channels, keys, d, Positions, heads, sums, headScale, scales);
            for (var t = 0; t < Positions; t++)
            {
                for (var head = 0; head < Block; head++)
                    scores[(from + t) * Block + head] = sums[head * Positions + t];
            }
        }
    }
}
