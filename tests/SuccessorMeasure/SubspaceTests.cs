using AuxCore.Kernels;
using static AuxCore.Tests.SuccessorMeasure.DenseAlgebra;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>
/// Which features the successor measure teaches, with all states as tasks: regression on returns finds the top left singular vectors of Ψ,
/// bootstrapped TD the top invariant subspace of P (Le Lan et al. 2023). They agree where P is symmetric, and differ where it is not.
/// </summary>
public class SubspaceTests
{
    private const int Iterations = 1500;

    [Fact]
    public void Four_rooms_have_one_slow_mode_a_room()
    {
        var (values, _) = SymmetricEigen(Square(Worlds.FourRooms()));
        double[] expected = [1, 0.99427, 0.99321, 0.98596, 0.92882, 0.91200, 0.90793, 0.90591, 0.89797];
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], values[i], 1e-5);
    }

    [Fact]
    public void In_four_rooms_regression_and_TD_both_find_the_four_modes()
    {
        var world = Worlds.FourRooms();
        var modes = FirstColumns(SymmetricEigen(Square(world)).Vectors, 4);
        Assert.InRange(LargestAngle(modes, LearnByRegression(world, 104, 4, 0.9)), 0, 0.005);
        Assert.InRange(LargestAngle(modes, LearnByTd(world, 104, 4, 0.9)), 0, 0.005);
    }

    [Fact]
    public void On_a_drifting_chain_TD_finds_the_invariant_subspace_and_regression_the_singular_one()
    {
        var world = Worlds.Chain(30, 0.7);
        var (invariant, singular) = (InvariantOfChain(world, 30, 0.7, 3), SingularSubspace(world, 30, 0.9, 3));
        var (td, regression) = (LearnByTd(world, 30, 3, 0.9), LearnByRegression(world, 30, 3, 0.9));
        Assert.InRange(LargestAngle(invariant, td), 0, 0.005);
        Assert.InRange(LargestAngle(singular, regression), 0, 0.005);
        Assert.Equal(77.85, LargestAngle(singular, td), 0.005);
        Assert.Equal(77.85, LargestAngle(invariant, regression), 0.005);
    }

    [Theory]
    [InlineData(0.99, new[] { 100, 1000, 10_000 }, new[] { 5.3, 1.6, 0.5 })]
    [InlineData(0.9, new[] { 100, 1000, 10_000 }, new[] { 27, 6.6, 2.1 })]
    public void Random_sets_find_the_four_modes_the_better_the_more_there_are(double discount, int[] tasks, double[] degrees)
    {
        var world = Worlds.FourRooms();
        var modes = FirstColumns(SymmetricEigen(Square(world)).Vectors, 4);
        var exact = new double[104 * 104];
        SuccessorSolve.Run(TransitionMatrix.FromDense(world, 104), discount, Start.Current, false, exact);
        var before = 90.0;
        for (var i = 0; i < tasks.Length; i++)
        {
            var random = new Random(7);
            var sets = new double[104, tasks[i]];
            for (var s = 0; s < 104; s++)
            {
                for (var t = 0; t < tasks[i]; t++)
                    sets[s, t] = random.NextDouble() < 0.1 ? 1 : 0;
            }

            var returns = Multiply(Square(exact), sets);
            var learned = FirstColumns(SymmetricEigen(Multiply(returns, Transpose(returns))).Vectors, 4);
            var angle = LargestAngle(modes, learned);
            Assert.InRange(angle, degrees[i] / 2, degrees[i] * 2); // other sets give other angles, of this size
            Assert.True(angle < before);
            before = angle;
        }
    }

    /// <summary>Heads and features fitted in turns to the exact Ψ, which the kernel solves for.</summary>
    private static double[,] LearnByRegression(double[] world, int states, int dimensions, double discount)
    {
        var target = new double[states * states];
        SuccessorSolve.Run(TransitionMatrix.FromDense(world, states), discount, Start.Current, false, target);
        var features = RandomFeatures(states, dimensions);
        for (var i = 0; i < Iterations; i++)
        {
            var heads = Multiply(Transpose(features), Square(target)); // least squares, the features being orthonormal
            features = FitFeatures(Square(target), heads);
        }

        return features;
    }

    /// <summary>
    /// Heads at the fixed point of their own bootstrapped targets (LSTD), then features fitted to the targets that one expected sweep makes
    /// of their predictions: TD without its noise.
    /// </summary>
    private static double[,] LearnByTd(double[] world, int states, int dimensions, double discount)
    {
        var (matrix, dense) = (TransitionMatrix.FromDense(world, states), Square(world));
        var features = RandomFeatures(states, dimensions);
        var table = new float[states * states];
        for (var i = 0; i < Iterations; i++)
        {
            var next = Multiply(dense, features);
            var system = Multiply(Transpose(features), features);
            var ahead = Multiply(Transpose(features), next);
            for (var r = 0; r < dimensions; r++)
            {
                for (var c = 0; c < dimensions; c++)
                    system[r, c] -= discount * ahead[r, c];
            }

            var heads = Solve(system, Transpose(features)); // tasks are states, so rewards are the identity
            var predictions = Multiply(features, heads);
            for (var at = 0; at < table.Length; at++)
                table[at] = (float)predictions[at / states, at % states];
            SuccessorSweep.Run(matrix, table, discount, Start.Current, false);
            features = FitFeatures(Square([.. table.Select(value => (double)value)]), heads);
        }

        return features;
    }

    // Features · heads ≈ targets in the least squares' sense; an orthonormal basis of what they span.
    private static double[,] FitFeatures(double[,] targets, double[,] heads) =>
        Orthonormal(Transpose(Solve(Multiply(heads, Transpose(heads)), Multiply(heads, Transpose(targets)))));

    private static double[,] RandomFeatures(int states, int dimensions)
    {
        var random = new Random(3);
        var features = new double[states, dimensions];
        for (var s = 0; s < states; s++)
        {
            for (var d = 0; d < dimensions; d++)
                features[s, d] = random.NextDouble() - 0.5;
        }

        return Orthonormal(features);
    }

    /// <summary>
    /// A chain is reversible: with its stationary weights w, √w P / √w is symmetric, and v / √w is an eigenvector of P where v is one of
    /// it.
    /// </summary>
    private static double[,] InvariantOfChain(double[] world, int states, double right, int dimensions)
    {
        var root = new double[states];
        for (var s = 0; s < states; s++)
            root[s] = Math.Pow(right / (1 - right), s / 2.0);
        var symmetric = Square(world);
        for (var s = 0; s < states; s++)
        {
            for (var j = 0; j < states; j++)
                symmetric[s, j] *= root[s] / root[j];
        }

        var vectors = FirstColumns(SymmetricEigen(symmetric).Vectors, dimensions);
        for (var s = 0; s < states; s++)
        {
            for (var d = 0; d < dimensions; d++)
                vectors[s, d] /= root[s];
        }

        return Orthonormal(vectors);
    }

    private static double[,] SingularSubspace(double[] world, int states, double discount, int dimensions)
    {
        var measure = new double[states * states];
        SuccessorSolve.Run(TransitionMatrix.FromDense(world, states), discount, Start.Current, false, measure);
        return FirstColumns(SymmetricEigen(Multiply(Square(measure), Transpose(Square(measure)))).Vectors, dimensions);
    }
}
