namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>Small Markov chains, as dense row-major matrices of transition probabilities.</summary>
internal static class Worlds
{
    public static double[] FourRooms() => AuxCore.Models.FourRooms.World.Transitions();

    /// <summary>A line on which a step goes right or left; at the ends, a step outwards stays.</summary>
    public static double[] Chain(int states, double right) => AuxCore.Models.Chain.World(states, 2 * right - 1).Transitions();

    /// <summary>Random transitions with so many successors a state, ending with the given probability.</summary>
    public static double[] Random(int states, int successors, double ends, int seed)
    {
        var random = new Random(seed);
        var matrix = new double[states * states];
        for (var s = 0; s < states; s++)
        {
            for (var i = 0; i < successors; i++)
                matrix[s * states + random.Next(states)] += (1 - ends) / successors;
        }

        return matrix;
    }
}
