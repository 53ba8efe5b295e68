using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// Observations whose cells are on or off, as bits: row by row, each on a byte's boundary, the lowest bit of a byte first.
/// </summary>
public static class ObservationBits
{
    private static readonly float[] Table = [.. Enumerable.Range(0, 256 * 8).Select(i => (float)(i / 8 >> i % 8 & 1))];

    /// <summary>How many bytes an observation takes.</summary>
    /// <param name="cells">How many cells it has.</param>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than one.</exception>
    public static int Bytes(int cells)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(cells, 1);
        return (cells - 1) / 8 + 1;
    }

    /// <summary>Bits to numbers.</summary>
    /// <param name="packed">[n, <see cref="Bytes"/>(cells)].</param>
    /// <param name="cells">How many cells an observation has.</param>
    /// <param name="values">[n, cells]: 1 where a bit is set, else 0. Its length gives n.</param>
    /// <exception cref="ArgumentException">The lengths do not go together. Nothing was written.</exception>
    public static void Unpack(ReadOnlySpan<byte> packed, int cells, Span<float> values)
    {
        var bytes = Bytes(cells);
        if (values.Length % cells != 0)
            throw new ArgumentException($"values: {values.Length} elements are no rows of {cells} cells", nameof(values));
        var rows = values.Length / cells;
        TensorArguments.RequireLength(nameof(packed), packed.Length, rows, bytes, nameof(packed));
        for (var row = 0; row < rows; row++)
        {
            var from = packed.Slice(row * bytes, bytes);
            var to = values.Slice(row * cells, cells);
            for (var at = 0; at < bytes; at++)
            {
                var count = Math.Min(8, cells - 8 * at);
                Table.AsSpan(8 * from[at], count).CopyTo(to[(8 * at)..]);
            }
        }
    }
}
