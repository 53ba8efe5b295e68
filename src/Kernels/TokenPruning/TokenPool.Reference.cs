namespace AuxCore.Kernels;

public static partial class TokenPool
{
    /// <summary>Means of cells in double, rounded once; or each token's sum over the cells that have it.</summary>
    private static unsafe void RunReference(in TokenPoolWork work, bool backward)
    {
        var grid = work.Grid;
        var (height, width) = backward ? (grid.Height, grid.Width) : (grid.Rows, grid.Columns);
        for (var image = 0L; image < work.Batch; image++)
        {
            for (var row = 0; row < height; row++)
            {
                for (var column = 0; column < width; column++)
                {
                    for (var channel = 0; channel < work.Channels; channel++)
                    {
                        var at = (backward ? work.TokenAt(image, row, column) : work.CellAt(image, row, column)) + channel;
                        var value = backward ? Spread(work, image, row, column, channel) : Mean(work, image, row, column, channel);
                        ReferenceFormat.Store(work.Destination, work.DType, at, (float)value);
                    }
                }
            }
        }
    }

    private static unsafe double Mean(in TokenPoolWork work, long image, int row, int column, int channel)
    {
        var (sum, count) = (-0.0, 0);
        for (var (i, end) = work.Grid.RowsOf(row); i < end; i++)
        {
            for (var (j, last) = work.Grid.ColumnsOf(column); j < last; j++, count++)
                sum += ReferenceFormat.Widen(work.Source, work.DType, work.TokenAt(image, i, j) + channel);
        }

        return sum / count;
    }

    // Every cell is asked whether it has the token.
    private static unsafe double Spread(in TokenPoolWork work, long image, int row, int column, int channel)
    {
        var sum = -0.0;
        for (var i = 0; i < work.Grid.Rows; i++)
        {
            var (top, bottom) = work.Grid.RowsOf(i);
            for (var j = 0; j < work.Grid.Columns && top <= row && row < bottom; j++)
            {
                var (left, right) = work.Grid.ColumnsOf(j);
                if (left <= column && column < right)
                {
                    sum += (double)ReferenceFormat.Widen(work.Source, work.DType, work.CellAt(image, i, j) + channel)
                        / ((bottom - top) * (right - left));
                }
            }
        }

        return sum;
    }
}
