using AuxCore.Models;
using AuxCore.Tests.Data;
using TorchSharp;

namespace AuxCore.Tests.Environments;

/// <summary>Frames of games in lockstep: what is drawn, what comes after what, several steps, and the file.</summary>
public class FrameReplayTests
{
    [Fact]
    public void The_oldest_frames_are_replaced_and_of_the_newest_nothing_is_drawn()
    {
        var replay = Filled(capacity: 9, games: 2, steps: 7); // four steps remain: 3 to 6
        Assert.Equal((8, 8, 6), (replay.Capacity, replay.Frames, replay.Count));
        var seen = new SortedSet<float>();
        var indices = new int[200];
        replay.Draw(indices);
        foreach (var index in indices)
        {
            var tag = replay.Rewards[index];
            seen.Add(tag);
            Assert.Equal(tag + 10, replay.Rewards[replay.Next(index)]); // the same game, a step later
        }

        Assert.Equal([30, 31, 40, 41, 50, 51], seen);
        var newest = Enumerable.Range(0, 8).First(index => replay.Rewards[index] == 60);
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Next(newest));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Next(8));
    }

    [Fact]
    public void Several_steps_add_up_and_stop_at_the_end_of_an_episode_or_of_the_data()
    {
        var replay = new FrameReplay(20, 1, 1, 0);
        float[] rewards = [1, 2, 4, 8, 16];
        for (var t = 0; t < 5; t++)
            replay.Add(new byte[13], [0], [rewards[t]], [t == 2]);

        Assert.Equal(new MultiStep(1, 1, 0.5f), replay.Follow(0, 1, 0.5));
        Assert.Equal(new MultiStep(1 + 0.5f * 2, 2, 0.25f), replay.Follow(0, 2, 0.5));
        Assert.Equal(new MultiStep(1 + 0.5f * 2 + 0.25f * 4, 3, 0), replay.Follow(0, 5, 0.5)); // over at step 2
        Assert.Equal(new MultiStep(8, 4, 0.5f), replay.Follow(3, 5, 0.5)); // frame 4 is the newest
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Follow(4, 1, 0.5));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Follow(0, 0, 0.5));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Follow(0, 1, 1.5));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Follow(0, 1, double.NaN));
    }

    [Fact]
    [RequiresLibtorch]
    public void A_batch_shows_what_was_seen_before_and_after_each_step()
    {
        using var scope = torch.NewDisposeScope();
        var games = new ArcadeEnvironment(ArcadeGame.Breakout, 3, seed: 1);
        var replay = new FrameReplay(300, 3, 4, seed: 2);
        var seen = new List<float[]>();
        var (packed, actions, rewards, done) = (new byte[3 * games.PackedBytes], new int[3], new float[3], new bool[3]);
        for (var step = 0; step < 60; step++)
        {
            var values = new float[3 * 400];
            games.Observe(values);
            games.Observe(packed);
            games.ActUniformly(actions);
            games.Step(actions, rewards, done);
            replay.Add(packed, actions, rewards, done);
            seen.Add(values);
        }

        int[] indices = [0, 5, 100];
        var batch = replay.Batch(indices);

        Assert.Equal([3, 4, 10, 10], batch.Observations.shape);
        var (before, after) = (batch.Observations.data<float>().ToArray(), batch.NextObservations.data<float>().ToArray());
        for (var i = 0; i < 3; i++)
        {
            var (step, game) = (indices[i] / 3, indices[i] % 3);
            Assert.Equal(seen[step].AsSpan(game * 400, 400), before.AsSpan(i * 400, 400));
            Assert.Equal(seen[step + 1].AsSpan(game * 400, 400), after.AsSpan(i * 400, 400));
            Assert.Equal(replay.Actions[indices[i]], batch.Actions[i].item<long>());
            Assert.Equal(replay.Done[indices[i]], batch.Done[i].item<bool>());
        }

        Assert.Equal([7, 4, 10, 10], replay.Sample(7).Observations.shape);
        TensorLeaks.None(() =>
        {
            using var inner = torch.NewDisposeScope();
            replay.Sample(8);
        });
    }

    [Fact]
    [RequiresLibtorch]
    public void A_file_gives_back_frames_and_draws_that_go_on()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "replay.safetensors");
        var saved = Filled(9, 2, 7);
        saved.Draw(new int[5]);
        saved.Save(path);
        var read = new FrameReplay(9, 2, 1, seed: 0);
        read.Load(path);

        Assert.Equal(saved.Packed, read.Packed);
        Assert.Equal(saved.Rewards, read.Rewards);
        Assert.Equal(saved.Actions, read.Actions);
        Assert.Equal(saved.Done, read.Done);
        var (expected, drawn) = (new int[50], new int[50]);
        saved.Draw(expected);
        read.Draw(drawn);
        Assert.Equal(expected, drawn);

        var other = Filled(10, 2, 3);
        var before = other.Rewards.ToArray();
        Assert.Contains("auxcore.sizes", Assert.Throws<StateFileException>(() => other.Load(path)).Message, StringComparison.Ordinal);
        Assert.Equal(before, other.Rewards);
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_nothing_is_added()
    {
        var replay = new FrameReplay(4, 2, 1, 0);
        var packed = new byte[26];
        Assert.Throws<ArgumentException>(() => replay.Add(new byte[25], [0, 0], [0, 0], [false, false]));
        Assert.Throws<ArgumentException>(() => replay.Add(packed, [0], [0, 0], [false, false]));
        Assert.Throws<ArgumentException>(() => replay.Add(packed, [0, 0], [0], [false, false]));
        Assert.Throws<ArgumentException>(() => replay.Add(packed, [0, 0], [0, 0], [false]));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Add(packed, [0, -1], [0, 0], [false, false]));
        Assert.Throws<InvalidOperationException>(() => replay.Draw(new int[1]));
        Assert.Equal((0, 0), (replay.Frames, replay.NextIndex));
        replay.Add(packed, [0, 0], [0, 0], [false, false]);
        Assert.Throws<InvalidOperationException>(() => replay.Draw(new int[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Sample(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Batch([]));
        Assert.Throws<ArgumentOutOfRangeException>(() => replay.Observations([2]));
        Assert.Throws<ArgumentOutOfRangeException>(() => new FrameReplay(3, 2, 1, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new FrameReplay(3, 0, 1, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new FrameReplay(3, 1, 0, 0));
    }

    // Rewards tell step and game: 10 · step + game.
    private static FrameReplay Filled(int capacity, int games, int steps)
    {
        var replay = new FrameReplay(capacity, games, channels: 1, seed: 0);
        for (var step = 0; step < steps; step++)
        {
            var packed = new byte[games * 13];
            Array.Fill(packed, (byte)step);
            replay.Add(
                packed, [.. Enumerable.Range(0, games)], [.. Enumerable.Range(0, games).Select(game => 10f * step + game)],
                new bool[games]);
        }

        return replay;
    }
}
