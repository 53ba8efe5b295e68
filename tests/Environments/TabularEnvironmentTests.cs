using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Tests.Environments;

/// <summary>Walkers and replay: frequencies against probabilities, and what a seed determines.</summary>
public class TabularEnvironmentTests
{
    [Fact]
    public void Steps_are_as_frequent_as_the_world_says()
    {
        var world = FourRooms.Slippery(1.0 / 3);
        var matrix = world.Transitions();
        var environment = new TabularEnvironment(world, 1000, seed: 3);
        var buffer = new ReplayBuffer(400_000, seed: 0);
        buffer.Collect(environment, 400);

        var (counts, visits, actions) = (new double[104 * 104], new double[104], new double[4]);
        for (var i = 0; i < buffer.Count; i++)
        {
            counts[buffer.States[i] * 104 + buffer.NextStates[i]]++;
            visits[buffer.States[i]]++;
            actions[buffer.Actions[i]]++;
        }

        Assert.All(actions, count => Assert.InRange(count, 100_000 - 1500, 100_000 + 1500)); // more than 5 standard deviations
        for (var at = 0; at < counts.Length; at++)
        {
            var (p, n) = (matrix[at], visits[at / 104]);
            Assert.InRange(Math.Abs(counts[at] - n * p), 0, 6 * Math.Sqrt(n * p * (1 - p)) + 1e-9);
        }
    }

    [Fact]
    public void A_walker_does_not_care_how_many_others_there_are()
    {
        var (few, many) = (Walk(3, seed: 5), Walk(17, seed: 5));
        for (var step = 0; step < 200; step++)
            Assert.Equal(few.AsSpan(step * 3, 3).ToArray(), many.AsSpan(step * 17, 3).ToArray());
        Assert.NotEqual(few, Walk(3, seed: 6));
        Assert.NotEqual(many.Where((_, i) => i % 17 == 0), many.Where((_, i) => i % 17 == 1)); // and each goes its own way

        static int[] Walk(int count, int seed)
        {
            var environment = new TabularEnvironment(FourRooms.Slippery(0.2), count, seed, timeLimit: 20);
            var buffer = new ReplayBuffer(200 * count, 0);
            buffer.Collect(environment, 200);
            return [.. buffer.NextStates];
        }
    }

    [Fact]
    public void Reset_begins_the_same_walk_again()
    {
        var environment = new TabularEnvironment(Chain.World(9, 0.3), 4, seed: 1, timeLimit: 30);
        var (first, second) = (new ReplayBuffer(400, 0), new ReplayBuffer(400, 0));
        first.Collect(environment, 100);
        environment.Reset();
        Assert.Equal(0, environment.Steps);
        second.Collect(environment, 100);

        Assert.Equal(100, environment.Steps);
        Assert.Equal(first.States.ToArray(), second.States.ToArray());
        Assert.Equal(first.NextStates.ToArray(), second.NextStates.ToArray());
    }

    [Fact]
    public void An_end_is_done_and_a_time_limit_is_not()
    {
        var environment = new TabularEnvironment(Chain.World(5, ends: ChainEnds.Absorb), 1, seed: 2, timeLimit: 3);
        var (next, done) = (new int[1], new bool[1]);
        environment.Reset([3]);
        environment.Step([1], next, done);
        Assert.Equal((4, true), (next[0], done[0]));
        Assert.InRange(environment.States[0], 1, 3); // the next episode has begun

        environment.Reset([2]);
        int[] back = [0, 1, 0];
        foreach (var (step, action) in back.Index())
        {
            environment.Step([action], next, done);
            Assert.False(done[0]);
            Assert.Equal(action == 0 ? 1 : 2, next[0]);
            if (step < 2)
                Assert.Equal(next[0], environment.States[0]);
        }

        var starts = new HashSet<int>();
        for (var i = 0; i < 100; i++)
        {
            environment.Reset([2]);
            foreach (var action in back)
                environment.Step([action], next, done);
            starts.Add(environment.States[0]);
        }

        Assert.Equal([1, 2, 3], starts.Order()); // broken off after three steps, and begun anywhere
    }

    [Fact]
    public void A_buffer_keeps_the_latest()
    {
        var buffer = new ReplayBuffer(3, 0);
        buffer.Add([0, 1], [1, 1], [1, 2], [false, false]);
        Assert.Equal(2, buffer.Count);
        Assert.Equal([0, 1], buffer.States.ToArray());
        buffer.Add([2, 3], [0, 0], [3, 4], [false, true]);

        Assert.Equal(3, buffer.Count);
        Assert.Equal([3, 1, 2], buffer.States.ToArray());
        Assert.Equal([4, 2, 3], buffer.NextStates.ToArray());
        Assert.Equal([0, 1, 0], buffer.Actions.ToArray());
        Assert.Equal([true, false, false], buffer.Done.ToArray());
    }

    [Fact]
    public void Draws_are_uniform_and_seeded()
    {
        int[] Draw(int seed)
        {
            var buffer = new ReplayBuffer(100, seed);
            buffer.Add([.. Enumerable.Range(0, 10)], new int[10], new int[10], new bool[10]);
            var indices = new int[20_000];
            buffer.Draw(indices.AsSpan(0, 5000));
            buffer.Draw(indices.AsSpan(5000));
            return indices;
        }

        var drawn = Draw(4);
        Assert.Equal(drawn, Draw(4));
        Assert.NotEqual(drawn, Draw(5));
        for (var i = 0; i < 10; i++)
            Assert.InRange(drawn.Count(index => index == i), 2000 - 220, 2000 + 220); // 5 standard deviations
    }

    [Fact]
    [RequiresLibtorch]
    public void A_batch_shows_the_observations_of_the_states()
    {
        using var scope = torch.NewDisposeScope();
        var buffer = new ReplayBuffer(1000, 1);
        buffer.Collect(new TabularEnvironment(Chain.World(6, ends: ChainEnds.Absorb), 4, seed: 1), 100);
        var observations = torch.arange(6, dtype: torch.float32).unsqueeze(1) * torch.tensor(new[] { 1f, 10f });

        var batch = buffer.Sample(64, observations);

        Assert.Equal([64, 2], batch.Observations.shape);
        Assert.Equal((torch.int64, torch.@bool), (batch.Actions.dtype, batch.Done.dtype));
        var (from, to) = (batch.Observations.data<float>().ToArray(), batch.NextObservations.data<float>().ToArray());
        var (actions, done) = (batch.Actions.data<long>().ToArray(), batch.Done.data<bool>().ToArray());
        for (var i = 0; i < 64; i++)
        {
            Assert.Equal(10 * from[2 * i], from[2 * i + 1]);
            Assert.Equal(from[2 * i] + (actions[i] == 1 ? 1 : -1), to[2 * i]);
            Assert.Equal(to[2 * i] is 0 or 5, done[i]);
        }

        var two = torch.arange(2).unsqueeze(1);
        Assert.Contains("2 rows", Assert.Throws<ArgumentException>(() => buffer.Sample(64, two)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => buffer.Sample(64, torch.tensor(1)));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Sample(0, observations));
        Assert.Throws<ArgumentNullException>(() => buffer.Sample(1, null!));
        Assert.Throws<InvalidOperationException>(() => new ReplayBuffer(3, 0).Sample(1, observations));
        TensorLeaks.None(() =>
        {
            using var inner = torch.NewDisposeScope();
            buffer.Sample(8, observations);
        });
        two.Dispose();
        Assert.Throws<ObjectDisposedException>(() => buffer.Sample(64, two));
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_nobody_moves()
    {
        var environment = new TabularEnvironment(FourRooms.World, 2, seed: 1);
        var before = environment.States.ToArray();
        var (next, done) = (new[] { -7, -7 }, new bool[2]);
        Assert.Throws<ArgumentException>(() => environment.Step([0], next, done));
        Assert.Throws<ArgumentException>(() => environment.Step([0, 0], next.AsSpan(1), done));
        Assert.Throws<ArgumentException>(() => environment.Step([0, 0], next, done.AsSpan(1)));
        Assert.Throws<ArgumentException>(() => environment.Step(next, next, done));
        Assert.Contains("actions[1]", Assert.Throws<ArgumentOutOfRangeException>(
            () => environment.Step([0, 4], next, done)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => environment.ActUniformly(new int[3]));
        Assert.Throws<ArgumentException>(() => environment.Reset([0]));
        Assert.Throws<ArgumentOutOfRangeException>(() => environment.Reset([0, 104]));
        Assert.Equal(before, environment.States.ToArray());
        Assert.Equal([-7, -7], next);
        Assert.Equal(0, environment.Steps);

        Assert.Throws<ArgumentOutOfRangeException>(() => new TabularEnvironment(FourRooms.World, 0, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new TabularEnvironment(FourRooms.World, 1, 1, -1));
        Assert.Throws<ArgumentNullException>(() => new TabularEnvironment(null!, 1, 1));

        var buffer = new ReplayBuffer(3, 0);
        Assert.Throws<ArgumentException>(() => buffer.Add([0, 1], [0], [0, 1], [false, false]));
        Assert.Throws<ArgumentException>(() => buffer.Add([0, 1], [0, 0], [0], [false, false]));
        Assert.Throws<ArgumentException>(() => buffer.Add([0, 1], [0, 0], [0, 0], [false]));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Add([0, -1], [0, 0], [0, 0], [false, false]));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Add([0, 0], [0, -1], [0, 0], [false, false]));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Add([0, 0], [0, 0], [0, -1], [false, false]));
        Assert.Throws<InvalidOperationException>(() => buffer.Draw(new int[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Collect(environment, -1));
        Assert.Throws<ArgumentNullException>(() => buffer.Collect(null!, 1));
        Assert.Equal(0, buffer.Count);
        Assert.Throws<ArgumentOutOfRangeException>(() => new ReplayBuffer(0, 0));
    }
}
