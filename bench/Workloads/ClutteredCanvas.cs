using AuxCore.Bench.Data;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// Images in which most patches say nothing of the class: an item of 28 × 28 at a random place of a black canvas of 56 × 56, among six
/// crops of 8 × 8 from other items. What a pixel shows is always a pixel of a real image.
/// </summary>
internal static class ClutteredCanvas
{
    /// <summary>Pixels along an edge.</summary>
    public const int Side = 56;

    private const int Crops = 6, CropSide = 8;

    /// <summary>One canvas an item, in the items' order, with the items' labels. The item lies above the crops.</summary>
    /// <param name="items">Square images, no larger than the canvas.</param>
    /// <param name="seed">Of places and crops; canvas i depends on nothing but items, seed and i.</param>
    public static LabelledImages Of(LabelledImages items, int seed)
    {
        var pixels = new byte[items.Count * Side * Side];
        for (int i = 0; i < items.Count; i++)
        {
            var random = new Random(HashCodeOf(seed, i));
            Span<byte> canvas = pixels.AsSpan(i * Side * Side, Side * Side);
            for (int crop = 0; crop < Crops; crop++)
            {
                ReadOnlySpan<byte> other = items.Image(random.Next(items.Count));
                int row = random.Next(items.Rows - CropSide + 1), column = random.Next(items.Columns - CropSide + 1);
                Copy(other, items.Columns, row, column, CropSide, canvas, Place(CropSide), Place(CropSide));
            }

            Copy(items.Image(i), items.Columns, 0, 0, items.Rows, canvas, Place(items.Rows), Place(items.Rows));

            int Place(int side) => random.Next(Side - side + 1);
        }

        return new($"{items.Source}, on cluttered canvases", Side, Side, pixels, items.Labels, items.ClassNames);
    }

    private static void Copy(
        ReadOnlySpan<byte> from, int width, int row, int column, int side, Span<byte> canvas, int toRow, int toColumn)
    {
        for (int i = 0; i < side; i++)
            from.Slice((row + i) * width + column, side).CopyTo(canvas[((toRow + i) * Side + toColumn)..]);
    }

    // Seeds that differ by one give unrelated canvases; System.HashCode differs from process to process.
    private static int HashCodeOf(int seed, int index) => unchecked((seed * 1_000_003 + index) * (int)0x9E3779B1);
}
