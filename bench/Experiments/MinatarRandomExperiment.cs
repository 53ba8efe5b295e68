using System.Globalization;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;

namespace AuxCore.Bench.Experiments;

/// <summary>Are the five games those of MinAtar? Uniformly random play against what it gives in the original's code.</summary>
internal sealed class MinatarRandomExperiment : ModelExperiment
{
    private const string Ours = "ArcadeEnvironment", Original = "the original's code, one figure";
    private const int Lanes = 64, TimedSteps = 5000, QuickSteps = 1000, WarmUpSteps = 2000;

    /// <summary>Random play of the original's code: mean return, mean length, and how many episodes they were measured on.</summary>
    private static readonly (ArcadeGame Game, double Return, double Length, int Episodes)[] Known =
    [
        (ArcadeGame.Breakout, 0.51, 11.2, 1000), (ArcadeGame.Asterix, 0.45, 69.5, 1000), (ArcadeGame.Freeway, 0.08, 2501, 100),
        (ArcadeGame.Seaquest, 0.11, 31.2, 1000), (ArcadeGame.SpaceInvaders, 2.89, 52.1, 1000),
    ];

    public override string Name => "minatar-random";

    public override string Claim => "Random play of the five games is as rewarding, and as long, as in MinAtar.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        List<ModelRow> rows = [], speeds = [];
        List<ModelDifference> differences = [];
        foreach ((ArcadeGame game, double itsReturn, double itsLength, int episodes) in Known)
        {
            cancellation.ThrowIfCancellationRequested();
            var plays = settings.Seeds.Select(seed => ArcadePlay.Random(game, episodes, seed)).ToList();
            Compare($"{game}: return, mean of {episodes:N0} episodes", itsReturn, [.. plays.Select(play => play.Returns.Average())]);
            Compare($"{game}: steps, mean of {episodes:N0} episodes", itsLength, [.. plays.Select(play => play.Lengths.Average())]);
            speeds.Add(new(Ours, false, $"{game}: million steps a second, observed as bits, {Lanes} games",
                [.. settings.Seeds.Select(seed => MillionSteps(game, seed, settings.Quick ? QuickSteps : TimedSteps))]));
            progress.Report(speeds.Count / (double)Known.Length);
        }

        string claim = string.Create(CultureInfo.InvariantCulture, $"{Claim} (its returns were given to two decimals, its lengths to one)");
        return new(Name, claim, [.. rows, .. speeds], differences[0])
        {
            Others = differences[1..],
            Pictures =
            [
                ("The games, played at random: 20 steps between pictures", ArcadeSvg.Render(
                    "Frames of five games", [.. Known.Select(known => ArcadeSvg.RandomPlay(known.Game, 6, 20, seed: 1))])),
            ],
        };

        void Compare(string metric, double its, double[] ours)
        {
            rows.Add(new(Ours, false, metric, ours));
            rows.Add(new(Original, true, metric, [.. ours.Select(_ => its)]));
            differences.Add(ModelDifference.Between(rows[^2], rows[^1]) with { Metric = metric });
        }
    }

    private static double MillionSteps(ArcadeGame game, int seed, int steps)
    {
        var environment = new ArcadeEnvironment(game, Lanes, seed);
        var (packed, actions) = (new byte[Lanes * environment.PackedBytes], new int[Lanes]);
        var (rewards, done) = (new float[Lanes], new bool[Lanes]);
        Play(WarmUpSteps); // long enough for the JIT to be done
        long start = ThreadClock.Nanoseconds();
        Play(steps);
        return 1e3 * steps * Lanes / (ThreadClock.Nanoseconds() - start);

        void Play(int count)
        {
            for (int step = 0; step < count; step++)
            {
                environment.ActUniformly(actions);
                environment.Step(actions, rewards, done);
                environment.Observe(packed);
            }
        }
    }
}
