using AuxCore.Bench.Workloads;
using AuxCore.Models;

namespace AuxCore.Tests.Bench;

public class GoalReachingTests
{
    [Fact]
    public void Shortest_paths_reach_everything() =>
        Assert.Equal(new(100, 104), new GoalReaching(FourRooms.World).Of(new GoalReaching(FourRooms.World).ShortestPaths()));

    [Fact]
    public void Who_only_goes_right_reaches_what_lies_to_the_right()
    {
        var score = new GoalReaching(Chain.World(5)).Of(Policies(5, (_, _) => 1));

        Assert.Equal(50, score.Reached); // the 10 pairs of 20 with the goal to the right
        Assert.Equal(1, score.WholeGoals); // the last one
    }

    [Fact]
    public void Twice_the_shortest_path_is_reached_and_more_is_not()
    {
        // A ring with a long way and a short one: forwards by one state, or straight to the goal from state 0.
        GoalReaching.Score Ring(int states)
        {
            var world = new TabularWorld(states, 2, (state, action) =>
                [new(action == 0 ? (state + 1) % states : state == 0 ? states - 1 : state, 1)]);
            return new GoalReaching(world).Of(Policies(states, (_, _) => 0));
        }

        // To the last state from state 0 it is 1 move at the shortest, and states - 1 on the way taken.
        Assert.Equal(100, Ring(3).Reached);
        Assert.True(Ring(4).Reached < 100);
    }

    private static int[][] Policies(int states, Func<int, int, int> action) =>
        [.. Enumerable.Range(0, states).Select(goal => Enumerable.Range(0, states).Select(state => action(goal, state)).ToArray())];
}
