namespace AuxCore.Kernels;

public static partial class KvAppend
{
    /// <summary>One head of one token after the other, in double, rounded once and then stored as quantising has it.</summary>
    internal static unsafe void RunReference(in KvAppendWork work)
    {
        var frequencies = work.Rotary?.FrequenciesOf(work.RotatedElements) ?? [];
        var row = new double[work.HeadDim];
        using var scratch = new Scratch();
        var rounded = scratch.Take<float>(work.HeadDim);
        var block = scratch.Take<float>((long)work.HeadDim * KiviGroup.Elements);
        for (var token = 0; token < work.Tokens; token++)
        {
            var b = work.Places.Sequence(token);
            for (var head = 0; head < work.Query.Heads; head++)
            {
                Transform(work, work.Query, token, head, frequencies, row);
                for (var i = 0; i < row.Length; i++)
                    work.Rotated[token * work.RotatedStep + (long)head * work.HeadDim + i] = (float)row[i];
            }

            for (var head = 0; head < work.KvHeads; head++)
            {
                Transform(work, work.Keys, token, head, frequencies, row);
                Store(work.Cache.Keys, b, head, work.Places.Slot(token, head), row, rounded, block);
                Transform(work, work.Values, token, head, [], row);
                Store(work.Cache.Values, b, head, work.Places.Slot(token, head), row, rounded, block);
            }
        }
    }

    private static unsafe void Transform(
        in KvAppendWork work, in KvHeadRows rows, int token, int head, double[] frequencies, double[] row)
    {
        var squares = 0.0;
        for (var i = 0; i < row.Length; i++)
        {
            row[i] = ReferenceFormat.Widen(rows.Row(token, head), rows.Type, i)
                + (double)(rows.Bias == null ? 0 : rows.Bias[(long)head * row.Length + i]);
            squares += row[i] * row[i];
        }

        for (var i = 0; i < row.Length && rows.Norm != null; i++)
            row[i] *= rows.Norm[i] / Math.Sqrt(squares / row.Length + work.NormEpsilon);
        for (var pair = 0; pair < frequencies.Length; pair++)
        {
            var (first, second) = work.Rotary!.Layout == RotaryLayout.Halves
                ? (pair, frequencies.Length + pair)
                : (2 * pair, 2 * pair + 1);
            var (sine, cosine) = Math.SinCos(work.Places.Positions[token] * frequencies[pair]);
            (row[first], row[second]) = (row[first] * cosine - row[second] * sine, row[second] * cosine + row[first] * sine);
        }
    }

    private static unsafe void Store(in KvPlane plane, int b, int head, int slot, double[] row, float* rounded, float* block)
    {
        for (var i = 0; i < row.Length; i++)
            rounded[i] = (float)row[i];
        if (plane.Ring != null)
        {
            KiviRing.Store(plane, rounded, b, head, slot, block, &QuantiseKivi);
            return;
        }

        KvQuantise.RunReference(
            new(row.Length, plane.Format, plane.Scale(head), rounded, plane.Row(b, head, slot), isRestore: false));
    }

    private static unsafe void QuantiseKivi(float* elements, byte* bytes, long count, float scale) =>
        KvQuantise.RunReference(new(count, KvFormat.Kivi4, scale, elements, bytes, isRestore: false));
}
