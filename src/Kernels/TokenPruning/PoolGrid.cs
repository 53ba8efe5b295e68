namespace AuxCore.Kernels;

/// <summary>
/// Which tokens of a grid of height × width are averaged into which cell of a smaller one. Tokens and cells are row-major.
/// </summary>
public readonly record struct PoolGrid
{
    private readonly int _windowHeight, _windowWidth; // 0 where cells are a share of the grid

    private PoolGrid(int height, int width, int rows, int columns, int windowHeight, int windowWidth)
    {
        (Height, Width, Rows, Columns) = (height, width, rows, columns);
        (_windowHeight, _windowWidth) = (windowHeight, windowWidth);
    }

    /// <summary>Rows of tokens.</summary>
    public int Height { get; }

    /// <summary>Tokens of a row.</summary>
    public int Width { get; }

    /// <summary>Rows of cells.</summary>
    public int Rows { get; }

    /// <summary>Cells of a row.</summary>
    public int Columns { get; }

    /// <summary>Height times width.</summary>
    public int Tokens => Height * Width;

    /// <summary>Rows times columns.</summary>
    public int Cells => Rows * Columns;

    /// <summary>
    /// Windows side by side, from the upper left. Those at the lower and right edge have only the tokens that are there, and average those.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    /// <exception cref="OverflowException">The grid has more tokens than an int can count.</exception>
    public static PoolGrid Window(int height, int width, int windowHeight, int windowWidth)
    {
        Check(height, width);
        ArgumentOutOfRangeException.ThrowIfLessThan(windowHeight, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(windowWidth, 1);
        return new(
            height, width, (int)((height + (long)windowHeight - 1) / windowHeight), (int)((width + (long)windowWidth - 1) / windowWidth),
            windowHeight, windowWidth);
    }

    /// <summary>
    /// So many cells whatever the grid: cell i of m along n tokens has those from ⌊i n / m⌋ up to ⌈(i + 1) n / m⌉, as adaptive pooling in
    /// PyTorch. Where m does not divide n, neighbours share tokens.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1, or there are more cells than tokens along a side.</exception>
    /// <exception cref="OverflowException">The grid has more tokens than an int can count.</exception>
    public static PoolGrid ToGrid(int height, int width, int rows, int columns)
    {
        Check(height, width);
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(columns, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, height);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(columns, width);
        return new(height, width, rows, columns, 0, 0);
    }

    /// <summary>The window; 0 where cells are a share of the grid.</summary>
    internal (int Height, int Width) WindowSize => (_windowHeight, _windowWidth);

    /// <summary>The rows of tokens of a row of cells: from, and one behind the last.</summary>
    internal (int From, int To) RowsOf(int row) => Range(row, Height, Rows, _windowHeight);

    /// <summary>The columns of tokens of a column of cells.</summary>
    internal (int From, int To) ColumnsOf(int column) => Range(column, Width, Columns, _windowWidth);

    /// <summary>The rows of cells that have a row of tokens.</summary>
    internal (int From, int To) CellRowsOf(int row) => Covering(row, Height, Rows, _windowHeight);

    /// <summary>The columns of cells that have a column of tokens.</summary>
    internal (int From, int To) CellColumnsOf(int column) => Covering(column, Width, Columns, _windowWidth);

    private static (int From, int To) Range(int cell, int tokens, int cells, int window) => window > 0
        ? ((int)((long)cell * window), (int)Math.Min(tokens, (cell + 1L) * window))
        : ((int)((long)cell * tokens / cells), (int)(((cell + 1L) * tokens + cells - 1) / cells));

    // The first cell that ends behind the token, and the last one that begins at it or before.
    private static (int From, int To) Covering(int token, int tokens, int cells, int window)
    {
        if (window > 0)
            return (token / window, token / window + 1);
        var from = (int)((long)token * cells / tokens);
        var to = (int)(((token + 1L) * cells - 1) / tokens) + 1;
        return (from, to);
    }

    private static void Check(int height, int width)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        _ = checked(height * width);
    }
}
