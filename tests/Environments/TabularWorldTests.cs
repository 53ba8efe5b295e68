using AuxCore.Models;

namespace AuxCore.Tests.Environments;

/// <summary>Worlds: transition probabilities and shortest paths against what their maps say.</summary>
public class TabularWorldTests
{
    [Fact]
    public void Four_rooms_are_104_cells_and_four_moves_between_neighbours()
    {
        Assert.Equal(104, FourRooms.World.States);
        Assert.Equal(4, FourRooms.World.Actions);
        for (var s = 0; s < FourRooms.States; s++)
        {
            var (row, column) = FourRooms.Position(s);
            Assert.Equal(s, FourRooms.StateAt(row, column));
            int[] places = [FourRooms.StateAt(row - 1, column), FourRooms.StateAt(row + 1, column),
                FourRooms.StateAt(row, column - 1), FourRooms.StateAt(row, column + 1)];
            for (var a = 0; a < 4; a++)
                Assert.Equal([new Outcome(places[a] < 0 ? s : places[a], 1)], FourRooms.World.Outcomes(s, a).ToArray());
        }

        Assert.Equal(-1, FourRooms.StateAt(0, 0));
        Assert.Equal(-1, FourRooms.StateAt(-5, 99));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1.0 / 3)]
    public void In_four_rooms_the_uniform_policy_is_symmetric_and_stays_where_walls_are(double slip)
    {
        var matrix = FourRooms.Slippery(slip).Transitions();
        for (var s = 0; s < 104; s++)
        {
            Assert.Equal(1, matrix.AsSpan(s * 104, 104).ToArray().Sum(), 1e-12);
            for (var j = 0; j < 104; j++)
                Assert.Equal(matrix[s * 104 + j], matrix[j * 104 + s], 1e-12);
            var walls = Enumerable.Range(0, 4).Count(a => FourRooms.World.Outcomes(s, a)[0].Next == s);
            Assert.Equal(walls / 4.0, matrix[s * 104 + s], 1e-12);
        }
    }

    [Fact]
    public void A_slip_takes_one_of_the_other_directions()
    {
        var corner = FourRooms.StateAt(1, 1);
        var (right, below) = (FourRooms.StateAt(1, 2), FourRooms.StateAt(2, 1));
        var outcomes = FourRooms.Slippery(1.0 / 3).Outcomes(corner, 3).ToArray();
        double To(int state) => outcomes.Where(outcome => outcome.Next == state).Sum(outcome => outcome.Probability);

        Assert.Equal(2.0 / 3, To(right), 1e-12);
        Assert.Equal(1.0 / 9, To(below), 1e-12);
        Assert.Equal(2.0 / 9, To(corner), 1e-12);
    }

    [Fact]
    public void Shortest_paths_lead_through_the_doors()
    {
        var distances = FourRooms.World.DistancesTo(FourRooms.StateAt(1, 1));
        Assert.Equal(0, distances[FourRooms.StateAt(1, 1)]);
        Assert.Equal(4, distances[FourRooms.StateAt(3, 3)]);
        Assert.Equal(10, distances[FourRooms.StateAt(1, 7)]); // 6 across, 2 down to the door in row 3, 2 up again
        Assert.Equal(9, distances[FourRooms.StateAt(8, 1)]);  // 7 down, one right to the door in column 2, one left again
        Assert.All(distances, distance => Assert.InRange(distance, 0, 25));

        for (var s = 0; s < 104; s++)
        {
            var neighbours = Enumerable.Range(0, 4).Select(a => distances[FourRooms.World.Outcomes(s, a)[0].Next]).ToArray();
            if (distances[s] > 0)
                Assert.Equal(distances[s] - 1, neighbours.Min()); // each step of a shortest path comes nearer by one
            Assert.Equal(distances[s], FourRooms.World.DistancesTo(s)[FourRooms.StateAt(1, 1)]); // moves can be taken back
        }
    }

    [Fact]
    public void A_drift_moves_the_chain_whatever_the_action()
    {
        var matrix = Chain.World(5, drift: 0.4).Transitions();
        double[] expected =
        [
            0.3, 0.7, 0, 0, 0,
            0.3, 0, 0.7, 0, 0,
            0, 0.3, 0, 0.7, 0,
            0, 0, 0.3, 0, 0.7,
            0, 0, 0, 0.3, 0.7,
        ];
        for (var i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], matrix[i], 1e-15);

        Assert.Equal([new Outcome(3, 1)], Chain.World(5, 0.4).Outcomes(2, 1).ToArray());
        Assert.Equal([new Outcome(1, 0.6), new Outcome(3, 0.4)], Chain.World(5, 0.4).Outcomes(2, 0).ToArray());
        Assert.Equal([new Outcome(1, 1 - (1 - 0.4)), new Outcome(3, 1 - 0.4)], Chain.World(5, -0.4).Outcomes(2, 1).ToArray());
        Assert.Equal([new Outcome(1, 1)], Chain.World(5, -0.4).Outcomes(2, 0).ToArray());
        Assert.Equal([new Outcome(3, 1)], Chain.World(5, 1).Outcomes(2, 0).ToArray());
    }

    [Fact]
    public void Absorbing_ends_are_missing_from_the_transitions()
    {
        var world = Chain.World(4, ends: ChainEnds.Absorb);
        Assert.Equal([1, 2], world.Starts.ToArray());
        Assert.Equal([0, 0, 0.5, 0], world.Transitions()[4..8]);
        Assert.Equal([0, 0, 0, 0], world.Transitions()[..4]);
        Assert.Equal([new Outcome(0, 1, Ends: true)], world.Outcomes(1, 0).ToArray());
        Assert.Equal([1, 0, 1, 2], Chain.World(4).DistancesTo(1));
        Assert.Equal([-1, 0, 1, -1], world.DistancesTo(1)); // nobody walks on from an end
        Assert.Equal([-1, 2, 1, 0], world.DistancesTo(3));  // but one may end there
    }

    [Fact]
    public void A_policy_weighs_the_actions()
    {
        var world = Chain.World(3);
        Assert.Equal([0, 1, 0, 0.75, 0, 0.25, 0, 1, 0], world.Transitions([0, 1, 0.75, 0.25, 1, 0]));
    }

    [Fact]
    public void A_goal_ends_episodes_and_none_begin_there()
    {
        var world = FourRooms.World.WithGoal(7);
        Assert.DoesNotContain(7, world.Starts.ToArray());
        Assert.Equal(103, world.Starts.Length);
        for (var s = 0; s < 104; s++)
        {
            for (var a = 0; a < 4; a++)
            {
                var (expected, actual) = (FourRooms.World.Outcomes(s, a)[0], world.Outcomes(s, a)[0]);
                Assert.Equal(expected with { Ends = expected.Next == 7 }, actual);
            }
        }

        Assert.Equal(FourRooms.World.DistancesTo(7), world.DistancesTo(7));
    }

    [Fact]
    public void Worlds_that_are_none_are_refused_by_state_and_action()
    {
        static void Refused(string message, params Outcome[] outcomes)
        {
            var error = Assert.Throws<ArgumentException>(
                () => new TabularWorld(2, 2, (s, a) => (s, a) == (1, 0) ? outcomes : [new Outcome(0, 1)]));
            Assert.Contains("action 0 in state 1 " + message, error.Message, StringComparison.Ordinal);
        }

        Refused("leads to 2", new Outcome(2, 1));
        Refused("leads to -1", new Outcome(-1, 1));
        Refused("has the probability 0", new Outcome(0, 0));
        Refused("has the probability NaN", new Outcome(0, double.NaN));
        Refused("has probabilities that sum to 0.9", new Outcome(0, 0.5), new Outcome(1, 0.4));
        Refused("has probabilities that sum to 0");
        Assert.Throws<ArgumentException>(() => new TabularWorld(2, 1, (_, _) => null!));
        Assert.Throws<ArgumentOutOfRangeException>(() => new TabularWorld(0, 1, (_, _) => []));
        Assert.Throws<ArgumentOutOfRangeException>(() => new TabularWorld(1, 0, (_, _) => []));
        Assert.Throws<ArgumentNullException>(() => new TabularWorld(1, 1, null!));
        Assert.Throws<ArgumentException>(() => new TabularWorld(1, 1, (_, _) => [new(0, 1)], starts: []));
        Assert.Throws<ArgumentOutOfRangeException>(() => new TabularWorld(1, 1, (_, _) => [new(0, 1)], starts: [1]));
        Assert.Throws<ArgumentException>(() => new TabularWorld(1, 1, (_, _) => [new(0, 1)]).WithGoal(0)); // no start is left
    }

    [Fact]
    public void Arguments_out_of_range_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.World.Outcomes(104, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.World.Outcomes(0, 4));
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.World.DistancesTo(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.World.WithGoal(104));
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.Position(104));
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.Slippery(double.NaN));
        Assert.Throws<ArgumentOutOfRangeException>(() => FourRooms.Slippery(1.1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Chain.World(1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Chain.World(2, ends: ChainEnds.Absorb));
        Assert.Throws<ArgumentOutOfRangeException>(() => Chain.World(5, double.NaN));
        Assert.Throws<ArgumentOutOfRangeException>(() => Chain.World(5, -1.1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Chain.World(5, 0, (ChainEnds)7));
        var chain = Chain.World(2);
        Assert.Throws<ArgumentException>(() => chain.Transitions([0.5, 0.5]));
        Assert.Throws<ArgumentException>(() => chain.Transitions([0.5, 0.5, 0.5, 0.4]));
        Assert.Throws<ArgumentException>(() => chain.Transitions([0.5, 0.5, 1.5, -0.5]));
        Assert.Throws<ArgumentException>(() => chain.Transitions([0.5, 0.5, double.NaN, 1]));
    }
}
