namespace AuxCore.Models;

/// <summary>
/// Four rooms joined by doors (Sutton, Precup and Singh 1999, "Between MDPs and semi-MDPs"): 104 cells, four moves, and a move into a wall
/// stays where it is. Under the uniform policy its transition matrix is symmetric, and its four largest eigenvalues, one a room, stand
/// apart from the others.
/// </summary>
public static class FourRooms
{
    private static readonly string[] Map =
    [
        "#############",
        "#     #     #",
        "#     #     #",
        "#           #",
        "#     #     #",
        "#     #     #",
        "## ####     #",
        "#     ### ###",
        "#     #     #",
        "#     #     #",
        "#           #",
        "#     #     #",
        "#############",
    ];

    private static readonly (int Row, int Column)[] Moves = [(-1, 0), (1, 0), (0, -1), (0, 1)];

    private static readonly (int Row, int Column)[] Cells =
    [
        .. from row in Enumerable.Range(0, Size)
           from column in Enumerable.Range(0, Size)
           where Map[row][column] != '#'
           select (row, column),
    ];

    /// <summary>How many cells there are.</summary>
    public const int States = 104;

    /// <summary>How many moves there are: up, down, left, right.</summary>
    public const int Actions = 4;

    /// <summary>How many rows the map has, and how many columns, walls included.</summary>
    public const int Size = 13;

    /// <summary>The rooms with moves that never slip.</summary>
    public static TabularWorld World { get; } = Slippery(0);

    /// <summary>The rooms with moves that slip: then one of the other three directions is taken instead.</summary>
    /// <param name="slip">The probability to slip, within [0, 1]; in the paper ⅓.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is not.</exception>
    public static TabularWorld Slippery(double slip)
    {
        if (!(slip is >= 0 and <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(slip), slip, "A probability lies within [0, 1].");
        return new(States, Actions, (state, action) => Enumerable.Range(0, Actions)
            .Select(direction => new Outcome(Next(state, direction), direction == action ? 1 - slip : slip / (Actions - 1)))
            .Where(outcome => outcome.Probability > 0));
    }

    /// <summary>A cell's row and column on the map; both count the walls.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is no cell.</exception>
    public static (int Row, int Column) Position(int state) => (uint)state < States
        ? Cells[state]
        : throw new ArgumentOutOfRangeException(nameof(state), state, $"{nameof(state)} is not within 0 and {States - 1}.");

    /// <summary>The cell at a place of the map; −1 for walls and whatever lies outside.</summary>
    public static int StateAt(int row, int column) => Array.IndexOf(Cells, (row, column));

    private static int Next(int state, int direction)
    {
        var next = StateAt(Cells[state].Row + Moves[direction].Row, Cells[state].Column + Moves[direction].Column);
        return next < 0 ? state : next;
    }
}
