using AuxCore.Models;

namespace AuxCore.Bench.Workloads;

/// <summary>Whole episodes of an arcade game.</summary>
internal static class ArcadePlay
{
    /// <summary>Chooses the actions of a step, by what is seen: packed observations of all games, then their actions.</summary>
    public delegate void Policy(ReadOnlySpan<byte> packed, Span<int> actions);

    /// <summary>Episodes of uniformly random actions: their returns, undiscounted, and their lengths in steps.</summary>
    public static (double[] Returns, double[] Lengths) Random(ArcadeGame game, int episodes, int seed)
    {
        var environment = new ArcadeEnvironment(game, episodes, seed);
        return Episodes(environment, (_, actions) => environment.ActUniformly(actions));
    }

    /// <summary>
    /// The first episode of each game. As many games as episodes, because the first to finish of a few games would be the short ones.
    /// </summary>
    /// <param name="environment">At its beginning.</param>
    /// <param name="policy">Chooses actions; for games that are over too.</param>
    /// <param name="longest">An episode that goes on longer is broken off.</param>
    public static (double[] Returns, double[] Lengths) Episodes(ArcadeEnvironment environment, Policy policy, int longest = int.MaxValue)
    {
        int games = environment.Count;
        var (returns, lengths, over) = (new double[games], new double[games], new bool[games]);
        var (packed, actions) = (new byte[games * environment.PackedBytes], new int[games]);
        var (rewards, done) = (new float[games], new bool[games]);
        for (int step = 0, left = games; left > 0 && step < longest; step++)
        {
            environment.Observe(packed);
            policy(packed, actions);
            environment.Step(actions, rewards, done);
            for (int game = 0; game < games; game++)
            {
                if (over[game]) continue;
                returns[game] += rewards[game];
                lengths[game]++;
                if (!done[game]) continue;
                over[game] = true;
                left--;
            }
        }

        return (returns, lengths);
    }
}
