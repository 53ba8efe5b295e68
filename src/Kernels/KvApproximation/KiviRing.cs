namespace AuxCore.Kernels;

/// <summary>How rows enter a cache in <see cref="KvFormat.Kivi4"/>: by a ring of the latest, from which they are quantised.</summary>
internal static unsafe class KiviRing
{
    /// <summary>How many of a head's first positions are quantised: all but the window, and of keys whole blocks.</summary>
    public static int Quantised(int length, int window, bool isKeys)
    {
        var left = Math.Max(0, length - window);
        return isKeys ? left / KiviGroup.Elements * KiviGroup.Elements : left;
    }

    /// <summary>
    /// Stores the row of a position, the one after those that are there. The value that leaves the window is quantised then, and keys when
    /// 32 have left it: what is quantised depends on the position alone, and so appending one by one gives the bytes of appending in bulk.
    /// </summary>
    /// <param name="plane">Keys or values.</param>
    /// <param name="row">[d].</param>
    /// <param name="b">The sequence.</param>
    /// <param name="kvHead">The head.</param>
    /// <param name="position">The row's.</param>
    /// <param name="block">[d, 32], for keys: room for a block, channel by channel.</param>
    /// <param name="quantise">Elements, bytes, how many elements, and 1.</param>
    public static void Store(
        in KvPlane plane, float* row, int b, int kvHead, int position, float* block, delegate*<float*, byte*, long, float, void> quantise)
    {
        var d = plane.HeadDim;
        new ReadOnlySpan<float>(row, d).CopyTo(new(plane.RingRows(b, kvHead, position, out _), d));
        var left = position + 1 - plane.Window;
        if (left <= 0)
            return;
        if (!plane.IsBlocked)
        {
            quantise(plane.RingRows(b, kvHead, left - 1, out _), plane.Row(b, kvHead, left - 1), d, 1);
            return;
        }

        if (left % KiviGroup.Elements != 0)
            return;
        var first = left - KiviGroup.Elements;
        for (var t = 0; t < KiviGroup.Elements; t++)
        {
            var source = plane.RingRows(b, kvHead, first + t, out _);
            for (var channel = 0; channel < d; channel++)
                block[channel * KiviGroup.Elements + t] = source[channel];
        }

        quantise(block, plane.Row(b, kvHead, first), (long)d * KiviGroup.Elements, 1);
    }
}
