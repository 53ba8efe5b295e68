using AuxCore.Models;

namespace AuxCore.Bench.Workloads;

/// <summary>How action values of an arcade game are trained and tested. The same for all arms.</summary>
internal sealed record ArcadeProtocol
{
    /// <summary>Frames of all games together.</summary>
    public required int Frames { get; init; }

    /// <summary>Games in lockstep.</summary>
    public int Games { get; init; } = 8;

    /// <summary>Frames an update.</summary>
    public int FramesPerUpdate { get; init; } = 4;

    public int Batch { get; init; } = 32;

    public int ReplayFrames { get; init; } = 100_000;

    /// <summary>Frames before the first update.</summary>
    public int Warmup { get; init; } = 1000;

    /// <summary>Updates between two copies to the target network.</summary>
    public int TargetEvery { get; init; } = 250;

    public double Discount { get; init; } = 0.99;

    /// <summary>Rewards that are added up before a value is asked, as in the published probe.</summary>
    public int Steps { get; init; } = 5;

    /// <summary>How often actions are random at the end; at the beginning always.</summary>
    public double Exploration { get; init; } = 0.05;

    /// <summary>The part of the frames over which that falls.</summary>
    public double ExplorationPart { get; init; } = 0.1;

    /// <summary>Points of the learning curve.</summary>
    public int Points { get; init; } = 20;

    /// <summary>Episodes of the test.</summary>
    public int TestEpisodes { get; init; } = 100;

    public double TestExploration { get; init; } = 0.01;

    public int LongestTest { get; init; } = 5000;
}

/// <summary>Trains action values by double Q-learning, then plays with them.</summary>
internal static class ArcadeTraining
{
    /// <summary>Trains, with a curve of the mean return of the episodes that ended in each part of the training.</summary>
    /// <param name="games">At their beginning.</param>
    /// <param name="values">What is trained.</param>
    /// <param name="replay">Empty; afterwards it holds the last frames.</param>
    /// <param name="protocol">How.</param>
    /// <param name="seed">Seeds exploration.</param>
    /// <param name="progress">Receives the part that is done.</param>
    /// <param name="cancellation">Stops it.</param>
    public static double[] Train(
        ArcadeEnvironment games, IActionValues values, FrameReplay replay, ArcadeProtocol protocol, int seed, Action<double> progress,
        CancellationToken cancellation)
    {
        var random = new Random(seed);
        int count = games.Count, steps = protocol.Frames / count;
        var (packed, actions, greedy) = (new byte[count * games.PackedBytes], new int[count], new int[count]);
        var (rewards, done, returns) = (new float[count], new bool[count], new double[count]);
        var (sums, ends) = (new double[protocol.Points], new int[protocol.Points]);
        var (indices, ahead) = (new int[protocol.Batch], new MultiStep[protocol.Batch]);
        int frames = 0, updates = 0;
        for (int step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            double exploration = Math.Max(
                protocol.Exploration, 1 - (1 - protocol.Exploration) * frames / (protocol.ExplorationPart * protocol.Frames));
            games.Observe(packed);
            values.Act(packed, replay.NextIndex, greedy);
            for (int game = 0; game < count; game++)
                actions[game] = random.NextDouble() < exploration ? random.Next(ArcadeEnvironment.Actions) : greedy[game];
            games.Step(actions, rewards, done);
            replay.Add(packed, actions, rewards, done);
            int point = Math.Min(protocol.Points - 1, (int)((long)step * protocol.Points / steps));
            for (int game = 0; game < count; game++)
            {
                returns[game] += rewards[game];
                if (!done[game]) continue;
                sums[point] += returns[game];
                ends[point]++;
                returns[game] = 0;
            }

            frames += count;
            for (; frames > protocol.Warmup && updates < (frames - protocol.Warmup) / protocol.FramesPerUpdate; updates++)
            {
                replay.Draw(indices);
                for (int i = 0; i < indices.Length; i++) ahead[i] = replay.Follow(indices[i], protocol.Steps, protocol.Discount);
                if (updates % protocol.TargetEvery == 0) values.FollowTarget();
                values.Update(replay, indices, ahead);
            }

            if (step % 50 == 0) progress(step / (double)steps);
        }

        // A part in which no episode ended shows what the one before it did.
        var curve = new double[protocol.Points];
        for (int point = 0; point < curve.Length; point++)
            curve[point] = ends[point] > 0 ? sums[point] / ends[point] : point > 0 ? curve[point - 1] : 0;
        return curve;
    }

    /// <summary>The mean return, and the mean length, of episodes that are hardly explored any longer.</summary>
    public static (double Return, double Length) Test(ArcadeGame game, IActionValues values, ArcadeProtocol protocol, int seed)
    {
        var random = new Random(seed);
        var games = new ArcadeEnvironment(game, protocol.TestEpisodes, seed);
        var (returns, lengths) = ArcadePlay.Episodes(games, Policy, protocol.LongestTest);
        return (returns.Average(), lengths.Average());

        void Policy(ReadOnlySpan<byte> packed, Span<int> actions)
        {
            values.Act(packed, actions);
            foreach (ref int action in actions)
            {
                if (random.NextDouble() < protocol.TestExploration) action = random.Next(ArcadeEnvironment.Actions);
            }
        }
    }
}
