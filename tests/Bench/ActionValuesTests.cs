using AuxCore.Bench.Workloads;
using AuxCore.Models;

namespace AuxCore.Tests.Bench;

/// <summary>What the linear probe of <c>models pvn</c> learns from a transition.</summary>
[RequiresLibtorch]
public class ActionValuesTests
{
    private const int Bytes = 50;

    [Fact]
    public void The_taken_action_learns_its_return_and_the_others_nothing()
    {
        using var values = Values(out var replay, done: true);
        for (var step = 0; step < 3000; step++)
            values.Update(replay, [0], [replay.Follow(0, 5, 0.9)]);
        var actions = new int[1];
        values.Act(replay.Packed[..Bytes], actions);
        Assert.Equal(3, actions[0]); // which brought 2; the others are 0

        values.FollowTarget();
        Assert.Equal(2, values.BestTarget(0), 0.01);
    }

    [Fact]
    public void Where_the_episode_goes_on_the_value_of_the_next_frame_is_added()
    {
        using var values = Values(out var replay, done: false);
        for (var round = 0; round < 40; round++)
        {
            values.FollowTarget();
            for (var step = 0; step < 300; step++)
                values.Update(replay, [0, 1], [replay.Follow(0, 1, 0.5), replay.Follow(1, 1, 0.5)]);
        }

        values.FollowTarget();
        Assert.Equal(2 + 0.5 * 1, values.BestTarget(0), 0.05); // frame 1 brings 1 and ends
        Assert.Equal(1, values.BestTarget(1), 0.05);
    }

    [Fact]
    public void Training_is_a_function_of_the_seed_and_fills_curve_and_replay()
    {
        double[] first = Train(out var seen), again = Train(out _);
        Assert.Equal(first, again);
        Assert.Equal(4, first.Length);
        Assert.Equal(1000, seen.Frames);

        static double[] Train(out FrameReplay replay)
        {
            var protocol = new ArcadeProtocol { Frames = 1600, ReplayFrames = 1000, Warmup = 100, Points = 4 };
            var games = new ArcadeEnvironment(ArcadeGame.Breakout, protocol.Games, seed: 1);
            var sample = new FrameReplay(16, 1, 4, seed: 0);
            for (var step = 0; step < 3; step++)
                sample.Add(new byte[Bytes], [0], [0], [false]);
            using var values = new LinearActionValues(FrozenFeatures.Pixels(4, sample, 8), protocol.ReplayFrames, rate: 1e-3);
            replay = new FrameReplay(protocol.ReplayFrames, protocol.Games, 4, seed: 1);
            return ArcadeTraining.Train(games, values, replay, protocol, 1, _ => { }, TestContext.Current.CancellationToken);
        }
    }

    // Two frames that are seen, and a third one: action 3 in frame 0 brings 2, action 1 in frame 1 brings 1 and ends the episode.
    private static LinearActionValues Values(out FrameReplay replay, bool done)
    {
        replay = new FrameReplay(8, 1, 4, seed: 0);
        byte[][] frames = [Frame(0), Frame(100), Frame(200)];
        replay.Add(frames[0], [3], [2], [done]);
        replay.Add(frames[1], [1], [1], [true]);
        replay.Add(frames[2], [0], [0], [false]);
        var values = new LinearActionValues(FrozenFeatures.Pixels(4, replay, 64), 8, rate: 1e-2);
        for (var index = 0; index < 3; index++)
            values.Act(frames[index], index, new int[1]);
        return values;

        static byte[] Frame(int cell)
        {
            var packed = new byte[Bytes];
            packed[cell / 8] = (byte)(1 << cell % 8);
            return packed;
        }
    }
}
