namespace AuxCore.Kernels;

/// <summary>A head's positions as float32, from whatever they are stored in: rows, blocks of KIVI's keys, a residual.</summary>
internal static unsafe class KvRestore
{
    /// <summary>Restores the first positions of a head, all that it has. Host memory.</summary>
    /// <param name="plane">Keys or values.</param>
    /// <param name="b">The sequence.</param>
    /// <param name="kvHead">The head.</param>
    /// <param name="length">How many positions the head has.</param>
    /// <param name="destination">[length, d].</param>
    public static void Run(in KvPlane plane, int b, int kvHead, int length, float* destination)
    {
        var (d, stored, position) = (plane.HeadDim, plane.Quantised(length), 0);
        var block = plane.IsBlocked ? new float[d * KiviGroup.Elements] : [];
        while (position < stored)
        {
            var rows = plane.Rows(b, kvHead, position, out var run);
            var count = Math.Min(run, stored - position);
            var to = destination + (long)position * d;
            if (plane.IsBlocked)
                Blocks(rows, count, d, block, to);
            else
                Dequantise(plane, rows, count, new(to, checked(count * d)), plane.Scale(kvHead));
            position += count;
        }

        while (position < length)
        {
            var rows = plane.RingRows(b, kvHead, position, out var run);
            var count = Math.Min(run, length - position);
            new ReadOnlySpan<float>(rows, checked(count * d)).CopyTo(new(destination + (long)position * d, count * d));
            position += count;
        }
    }

    // A block of 32 positions is a group for each channel.
    private static void Blocks(byte* bytes, int count, int d, float[] block, float* destination)
    {
        const int Positions = KiviGroup.Elements;
        for (var from = 0; from < count; from += Positions, bytes += d * KiviGroup.Bytes)
        {
            KvQuantise.Dequantise(new(bytes, d * KiviGroup.Bytes), KvFormat.Kivi4, block);
            for (var i = 0; i < block.Length; i++)
                destination[(from + i % Positions) * (long)d + i / Positions] = block[i];
        }
    }

    private static void Dequantise(in KvPlane plane, byte* rows, int count, Span<float> destination, float scale) =>
        KvQuantise.Dequantise(new(rows, checked((int)(count * plane.RowBytes))), plane.Format, destination, scale);
}
