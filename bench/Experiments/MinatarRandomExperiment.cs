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

    /// <summary>Random play of the original's code: mean return and its standard error, mean length, and of how many episodes.</summary>
    private static readonly (ArcadeGame Game, double Return, double Error, double Length, int Episodes)[] Known =
    [
        (ArcadeGame.Breakout, 0.51, 0.02, 11.2, 1000), (ArcadeGame.Asterix, 0.45, 0.03, 69.5, 1000),
        (ArcadeGame.Freeway, 0.08, 0.03, 2501, 100), (ArcadeGame.Seaquest, 0.11, 0.01, 31.2, 1000),
        (ArcadeGame.SpaceInvaders, 2.89, 0.08, 52.1, 1000),
    ];

    public override string Name => "minatar-random";

    public override string Claim => "Random play of the five games is as rewarding, and as long, as in MinAtar.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        List<ModelRow> rows = [], speeds = [];
        List<ModelDifference> differences = [];
        foreach ((ArcadeGame game, double itsReturn, double itsError, double itsLength, int episodes) in Known)
        {
            cancellation.ThrowIfCancellationRequested();
            var plays = settings.Seeds.Select(seed => ArcadePlay.Random(game, episodes, seed)).ToList();
            Compare($"{game}: return, mean of {episodes:N0} episodes", itsReturn, itsError, [.. plays.Select(play => play.Returns)]);
            // The error of its lengths was not given. They are as many, and spread about as ours are.
            double spread = StandardError([.. plays.SelectMany(play => play.Lengths)]) * Math.Sqrt(plays.Count);
            Compare($"{game}: steps, mean of {episodes:N0} episodes", itsLength, spread, [.. plays.Select(play => play.Lengths)]);
            speeds.Add(new(Ours, false, $"{game}: million steps a second, observed as bits, {Lanes} games",
                [.. settings.Seeds.Select(seed => MillionSteps(game, seed, settings.Quick ? QuickSteps : TimedSteps))]));
            progress.Report(speeds.Count / (double)Known.Length);
        }

        string claim = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} (the intervals hold the standard errors of both sides; of the original there is one figure each, with its error)");
        return new(Name, claim, [.. rows, .. speeds], differences[0])
        {
            Others = differences[1..],
            Pictures =
            [
                ("The games, played at random: 20 steps between pictures", ArcadeSvg.Render(
                    "Frames of five games", [.. Known.Select(known => ArcadeSvg.RandomPlay(known.Game, 6, 20, seed: 1))])),
            ],
        };

        void Compare(string metric, double its, double itsError, double[][] ours)
        {
            const double Normal95 = 1.96;
            double[] means = [.. ours.Select(episodes => episodes.Average())];
            rows.Add(new(Ours, false, metric, means));
            rows.Add(new(Original, true, metric, [.. ours.Select(_ => its)]));
            double error = StandardError([.. ours.SelectMany(episodes => episodes)]);
            double difference = means.Average() - its, half = Normal95 * Math.Sqrt(error * error + itsError * itsError);
            differences.Add(new(Ours, Original, difference, difference - half, difference + half) { Metric = metric });
        }
    }

    private static double StandardError(double[] values)
    {
        double mean = values.Average();
        return Math.Sqrt(values.Sum(value => (value - mean) * (value - mean)) / (values.Length - 1) / values.Length);
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
