namespace AuxCore.Bench.Workloads;

/// <summary>
/// Four rooms joined by doors (Sutton, Precup and Singh 1999): 104 cells, four moves, and a move into a wall stays where it is. Under the
/// uniform policy its transition matrix is symmetric, and its four largest eigenvalues, one a room, stand apart from the others.
/// </summary>
internal static class FourRooms
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

    private static readonly int[,] Index = IndexCells();

    /// <summary>How many cells there are.</summary>
    public static int States => 104;

    /// <summary>How many moves there are: up, down, left, right.</summary>
    public static int Actions => 4;

    /// <summary>The cell that a move leads to.</summary>
    public static int Next(int state, int action)
    {
        for (int row = 0; row < Map.Length; row++)
        {
            for (int column = 0; column < Map.Length; column++)
            {
                if (Index[row, column] != state) continue;
                int next = Index[row + Moves[action].Row, column + Moves[action].Column];
                return next < 0 ? state : next;
            }
        }

        throw new ArgumentOutOfRangeException(nameof(state), state, "Not a cell.");
    }

    /// <summary>P under the uniform policy, [states, states] row-major.</summary>
    public static double[] Transitions()
    {
        var matrix = new double[States * States];
        for (int state = 0; state < States; state++)
        {
            for (int action = 0; action < Actions; action++) matrix[state * States + Next(state, action)] += 1.0 / Actions;
        }

        return matrix;
    }

    /// <summary>Transitions of a walk: each begins where the one before ended, or anywhere with a probability of 1 in 50.</summary>
    public static (int[] Current, int[] Next) Walk(int count, int seed)
    {
        var random = new Random(seed);
        var table = new int[States, Actions];
        for (int state = 0; state < States; state++)
        {
            for (int action = 0; action < Actions; action++) table[state, action] = Next(state, action);
        }

        var (current, next) = (new int[count], new int[count]);
        int at = random.Next(States);
        for (int i = 0; i < count; i++)
        {
            current[i] = at;
            next[i] = table[at, random.Next(Actions)];
            at = random.Next(50) == 0 ? random.Next(States) : next[i];
        }

        return (current, next);
    }

    private static int[,] IndexCells()
    {
        var index = new int[Map.Length, Map.Length];
        int count = 0;
        for (int row = 0; row < Map.Length; row++)
        {
            for (int column = 0; column < Map.Length; column++) index[row, column] = Map[row][column] == '#' ? -1 : count++;
        }

        return index;
    }
}
