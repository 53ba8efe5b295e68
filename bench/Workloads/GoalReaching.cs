using AuxCore.Models;

namespace AuxCore.Bench.Workloads;

/// <summary>How well policies for goals do in a world whose moves are certain: whether they come there, and by how long a way.</summary>
/// <param name="world">The world; each move has one outcome.</param>
internal sealed class GoalReaching(TabularWorld world)
{
    private readonly int[][] _distances = [.. Enumerable.Range(0, world.States).Select(world.DistancesTo)];

    /// <summary>What a set of policies, one a goal, achieves from every other state.</summary>
    /// <param name="Reached">Percent of the pairs of start and goal that are reached within twice the shortest path.</param>
    /// <param name="WholeGoals">How many goals are reached so from every start.</param>
    internal sealed record Score(double Reached, double WholeGoals);

    /// <summary>Walks from every state to every goal.</summary>
    /// <param name="policies">[goal][state]: the action.</param>
    public Score Of(IReadOnlyList<int[]> policies)
    {
        int reached = 0, pairs = 0, whole = 0;
        for (int goal = 0; goal < world.States; goal++)
        {
            int missed = 0;
            for (int start = 0; start < world.States; start++)
            {
                if (start == goal) continue;
                pairs++;
                if (Arrives(policies[goal], start, goal)) reached++;
                else missed++;
            }

            if (missed == 0) whole++;
        }

        return new(100.0 * reached / pairs, whole);
    }

    /// <summary>The exact optimum: for each goal, in each state, a move that comes nearer by one.</summary>
    public IReadOnlyList<int[]> ShortestPaths() =>
        [.. _distances.Select(distance => Enumerable.Range(0, world.States).Select(state =>
            Enumerable.Range(0, world.Actions).MinBy(action => distance[Next(state, action)])).ToArray())];

    private bool Arrives(int[] policy, int start, int goal)
    {
        int at = start;
        for (int left = 2 * _distances[goal][start]; left > 0; left--)
        {
            at = Next(at, policy[at]);
            if (at == goal) return true;
        }

        return false;
    }

    private int Next(int state, int action) => world.Outcomes(state, action)[0].Next;
}
