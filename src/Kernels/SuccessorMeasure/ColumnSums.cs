using System.Numerics;

namespace AuxCore.Kernels;

/// <summary>
/// The rows of a matrix cut into chunks, in a way that depends on their number only: sums down the columns are formed chunk by chunk, and
/// then over the chunks, so threads change no bit of them.
/// </summary>
internal readonly record struct RowChunks(long Rows)
{
    private const long LeastRows = 64;
    private const long Most = 256;

    private long Size => Math.Max(LeastRows, (Rows + Most - 1) / Most);

    public long Count => (Rows + Size - 1) / Size;

    /// <summary>The first row of a chunk; of the one behind the last, the number of rows.</summary>
    public long Begin(long chunk) => Math.Min(Rows, chunk * Size);
}

/// <summary>One sum for each chunk of rows and each column. Counts are held in float32, exact up to 2²⁴ rows a chunk.</summary>
internal sealed class ColumnSums<T>(RowChunks chunks, int columns) where T : INumberBase<T>
{
    private readonly T[] _sums = new T[chunks.Count * columns];

    /// <summary>The sums of one chunk.</summary>
    public Span<T> Of(long chunk) => _sums.AsSpan(checked((int)(chunk * columns)), columns);

    /// <summary>The sum of a column over the chunks, in their order.</summary>
    public double Total(int column)
    {
        var total = 0.0;
        for (var at = column; at < _sums.Length; at += columns)
            total += double.CreateTruncating(_sums[at]);
        return total;
    }

    /// <summary>The same as a number of rows; −1 where a NaN was among what was counted.</summary>
    public int Count(int column)
    {
        var total = Total(column);
        return double.IsNaN(total) ? -1 : (int)total;
    }
}
