using AuxCore.Kernels;
using AuxCore.Models;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>Tables learned from samples, against the exact measure.</summary>
public class SampledTdTests
{
    [Theory]
    [InlineData(Start.Current, false)]
    [InlineData(Start.Next, false)]
    [InlineData(Start.Current, true)]
    public void A_walk_through_four_rooms_teaches_their_measure(Start start, bool normalised)
    {
        const double Discount = 0.9;
        var exact = new double[104 * 104];
        SuccessorSolve.Run(TransitionMatrix.FromDense(Worlds.FourRooms(), 104), Discount, start, normalised, exact);
        var (few, many) = (Learn(20_000), Learn(320_000));
        Assert.InRange(RelativeError(few), 0.05, 0.35);
        Assert.InRange(RelativeError(many), 0, 0.06);

        float[] Learn(int samples)
        {
            var table = new float[104 * 104];
            var walk = new ReplayBuffer(samples, seed: 1);
            walk.Collect(new TabularEnvironment(FourRooms.World, count: 1, seed: 1, timeLimit: 50), samples);
            const int Batch = 500;
            for (var from = 0; from < samples; from += Batch)
            {
                // A step size that falls as 1 / visits once the table has forgotten its zeros.
                var stepSize = Math.Min(0.5, 30.0 / (1 + from / 104.0));
                TabularTd.Run(
                    table, 104, walk.States.Slice(from, Batch), walk.NextStates.Slice(from, Batch), walk.Done.Slice(from, Batch), stepSize,
                    Discount, start, normalised);
                var bound = normalised ? 1 : 1 / (1 - Discount);
                Assert.All(table, value => Assert.InRange(value, 0, bound));
                Assert.All(table.Chunk(104), row => Assert.InRange(row.Sum(value => (double)value), 0, bound * (1 + 1e-5)));
            }

            return table;
        }

        double RelativeError(float[] table) => Math.Sqrt(
            table.Zip(exact, (x, y) => (x - y) * (x - y)).Sum() / exact.Sum(value => value * value));
    }

    [Fact]
    public void Episodes_that_end_teach_the_measure_whose_transitions_leave_the_ends_out()
    {
        const int States = 7, Samples = 160_000, Batch = 500;
        const double Discount = 0.9;
        var world = Chain.World(States, drift: 0.2, ChainEnds.Absorb);
        var exact = new double[States * States];
        SuccessorSolve.Run(TransitionMatrix.FromDense(world.Transitions(), States), Discount, Start.Current, false, exact);
        var walk = new ReplayBuffer(Samples, seed: 1);
        walk.Collect(new TabularEnvironment(world, count: 8, seed: 1), Samples / 8);
        var table = new float[States * States];
        for (var from = 0; from < Samples; from += Batch)
        {
            TabularTd.Run(
                table, States, walk.States.Slice(from, Batch), walk.NextStates.Slice(from, Batch), walk.Done.Slice(from, Batch),
                Math.Min(0.5, 30.0 / (1 + from / 5.0)), Discount, Start.Current, false);
        }

        for (var at = States; at < table.Length - States; at++) // the ends are never left, so nothing is learned of them
            Assert.Equal(exact[at], table[at], 0.05);
        Assert.All(table[..States], value => Assert.Equal(0, value));
        Assert.True(exact[3 * States + 3] < 3); // 1 / (1 − γ) would be 10: episodes are short
    }

    [Fact]
    public void A_deterministic_ring_is_learned_exactly()
    {
        // Visited backwards with α = 1, a ring of n states is done after as many rounds as γ to the n-th fades away.
        const int States = 12;
        int[] current = [.. Enumerable.Range(0, States).Reverse()];
        int[] next = [.. current.Select(s => (s + 1) % States)];
        var table = new float[States * States];
        for (var round = 0; round < 20; round++)
            TabularTd.Run(table, States, current, next, new bool[States], 1, 0.5, Start.Current, false);
        for (var s = 0; s < States; s++)
        {
            for (var j = 0; j < States; j++)
                Assert.Equal(
                    Math.Pow(0.5, (j - s + States) % States) / (1 - Math.Pow(0.5, States)), table[s * States + j], 2e-7);
        }
    }
}
