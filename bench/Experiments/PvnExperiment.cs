using System.Diagnostics;
using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Proto-value networks on two arcade games, tested by a linear probe: a DQN plays; encoders are pre-trained on its replay without rewards;
/// then a double DQN that is linear in their frozen features learns the game anew. All linear arms have the same probe, frames, updates,
/// exploration and, but for the pixels, initial encoder.
/// </summary>
internal sealed class PvnExperiment : ModelExperiment
{
    // Hours of results should outlive a build, so they are told apart by this number: raise it when what is computed changes.
    private const string Version = "protocol 1";

    private const int Updates = 20_000, QuickUpdates = 40, Batch = 32, Sample = 4096, DqnFeatures = 128;
    private const double ProbeRate = 1e-4, DqnRate = 3e-4;
    private const string Pvn = "PVN", Random = "random features", Cumulants = "random cumulants", Pixels = "pixels, linear",
        Dqn = "DQN from pixels";
    private const string Published = "published update, TorchSharp ops", Ours = "ProtoValueNetwork.Update";
    private const string ThroughputMetric = "updates a second, batch of 32, one thread";

    private static readonly ArcadeGame[] Games = [ArcadeGame.Breakout, ArcadeGame.Asterix];
    private static readonly string[] Arms = [Pvn, Random, Cumulants, Pixels, Dqn];

    public override string Name => "pvn";

    public override string Claim =>
        "A linear probe plays better on the features of a proto-value network, pre-trained without rewards, than on random features.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        ArcadeProtocol protocol = settings.Quick
            ? new() { Frames = 1600, ReplayFrames = 1600, TestEpisodes = 10, LongestTest = 200 }
            : new() { Frames = 200_000 };
        int updates = settings.Quick ? QuickUpdates : Updates;
        var journal = new ExperimentJournal(
            Name, string.Create(CultureInfo.InvariantCulture, $"{updates} updates of {Batch}, {settings.Threads} threads; {protocol}"),
            build: Version);
        var work = new Work(protocol, updates, settings, journal, progress, cancellation);
        double[] throughput = work.Throughput();
        Console.WriteLine(work.Estimate(throughput));
        var figures = new Dictionary<(ArcadeGame, string), double[][]>();
        foreach (int seed in settings.Seeds)
        {
            foreach (ArcadeGame game in Games)
            {
                foreach (string arm in Arms.Reverse()) // the DQN first: its replay is what the others are pre-trained on
                {
                    double[] figure = work.Part(game, seed, arm);
                    if (!figures.TryGetValue((game, arm), out double[][]? all)) figures[(game, arm)] = all = [];
                    figures[(game, arm)] = [.. all, figure];
                }
            }
        }

        work.Complete();
        return Results(settings, protocol, updates, figures, throughput);
    }

    private ModelResults Results(
        ModelSettings settings, ArcadeProtocol protocol, int updates, Dictionary<(ArcadeGame, string), double[][]> figures,
        double[] throughput)
    {
        string after = string.Create(
            CultureInfo.InvariantCulture, $"mean return of {protocol.TestEpisodes} episodes, {protocol.Frames:N0} frames");
        string both = $"both games: {after}";
        double[] Returns(ArcadeGame game, string arm) => [.. figures[(game, arm)].Select(figure => figure[0])];
        ModelRow Mean(string arm) =>
            new(arm, arm != Pvn, both, [.. settings.Seeds.Select((_, at) => Games.Average(game => Returns(game, arm)[at]))]);
        ModelRow Of(ArcadeGame game, string arm) => new(arm, arm != Pvn, $"{game}: {after}", Returns(game, arm));
        ModelRow Speed(string arm, int from) =>
            new(arm, arm != Ours, ThroughputMetric, [.. settings.Seeds.Select((_, at) => throughput[2 * at + from])]);

        List<ModelRow> rows =
            [.. Arms.Select(Mean), .. Games.SelectMany(game => Arms.Select(arm => Of(game, arm))), Speed(Ours, 0), Speed(Published, 1)];
        List<ModelDifference> others =
        [
            .. Arms.Skip(2).Select(control => Named(Mean(Pvn), Mean(control))),
            .. Games.SelectMany(game => Arms.Skip(1).Select(control => Named(Of(game, Pvn), Of(game, control)))),
            Named(rows[^2], rows[^1]),
        ];
        double[] frames = [.. Enumerable.Range(1, protocol.Points).Select(point => (double)protocol.Frames * point / protocol.Points)];
        List<ModelCurve> curves = [.. Games.SelectMany(game => Arms.Select(arm => new ModelCurve(
            arm, $"{game}: mean return while training", frames, [.. figures[(game, arm)].Select(figure => figure[Work.FirstPoint..])])))];
        IEnumerable<double> dead = Games.SelectMany(game => figures[(game, Pvn)].Select(figure => figure[2]));
        string claim = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} (MinAtar-compatible Breakout and Asterix; {updates:N0} updates of {Batch} transitions of a DQN's replay, 100 random "
            + $"sets of {100 * ArcadePretraining.Rate:0} % of the frames, 256 features; dead sets: {dead.Min():0} to {dead.Max():0}; then "
            + $"{protocol.Frames:N0} frames with an update each {protocol.FramesPerUpdate})");
        return new(Name, claim, rows, ModelDifference.Between(rows[0], rows[1]))
        {
            Others = others,
            Curves = curves,
            Pictures =
            [
                ("The games, played at random: 20 steps between pictures", ArcadeSvg.Render(
                    "Frames of five games", [.. Enum.GetValues<ArcadeGame>().Select(game => ArcadeSvg.RandomPlay(game, 6, 20, seed: 1))])),
            ],
        };
    }

    private static ModelDifference Named(ModelRow arm, ModelRow control) =>
        ModelDifference.Between(arm, control) with { Metric = arm.Metric };

    /// <summary>The parts, and how far they are.</summary>
    private sealed class Work(
        ArcadeProtocol protocol, int updates, ModelSettings settings, ExperimentJournal journal, IProgress<double> progress,
        CancellationToken cancellation)
    {
        public const int FirstPoint = 4; // before it: return, length, dead sets, last loss of the pre-training

        // Seconds of each arm, roughly, as parts of the whole: what is left is told from it.
        private static readonly Dictionary<string, double> Weights = new()
        {
            [Dqn] = 10, [Cumulants] = 7, [Pvn] = 5, [Random] = 1, [Pixels] = 1,
        };

        private readonly double _all = settings.Seeds.Count * Games.Length * Weights.Values.Sum();
        private double _done;

        public double[] Throughput() => journal.Part("updates a second", () =>
        {
            const ArcadeGame Game = ArcadeGame.Breakout;
            FrameReplay replay = RandomReplay(Game, settings.Quick ? 1600 : 20_000);
            var pretraining = new ArcadePretraining(replay, ArcadePretraining.Settings(Game, seed: 1), Batch);
            var (ours, published) = pretraining.UpdatesPerSecond(
                Math.Max(settings.Seeds.Count, 3), settings.Quick ? 5 : 100, settings.Threads == 1);
            return [.. ours.Zip(published).SelectMany(pair => (double[])[pair.First, pair.Second])];
        });

        /// <summary>What the whole protocol costs on this machine, from short trainings.</summary>
        public string Estimate(double[] throughput)
        {
            const ArcadeGame Game = ArcadeGame.Breakout;
            double[] seconds = journal.Part("seconds a frame", () =>
            {
                int frames = settings.Quick ? 1600 : 6000;
                ArcadeProtocol brief = protocol with { Frames = frames, ReplayFrames = frames, Warmup = 100 };
                var games = new ArcadeEnvironment(Game, protocol.Games, seed: 1);
                using var dqn = new ConvolutionalActionValues(games, DqnFeatures, DqnRate, seed: 1);
                FrameReplay seen = RandomReplay(Game, frames);
                ConvolutionalEncoder encoder = new ArcadePretraining(seen, ArcadePretraining.Settings(Game, seed: 1), Batch).Untrained();
                using var linear = new LinearActionValues(FrozenFeatures.Of(encoder, games.Channels, seen, 1000), frames, ProbeRate);
                return [Seconds(dqn), Seconds(linear)];

                double Seconds(IActionValues values)
                {
                    games.Reset();
                    var replay = new FrameReplay(frames, protocol.Games, games.Channels, seed: 1);
                    var time = Stopwatch.StartNew();
                    _ = ArcadeTraining.Train(games, values, replay, brief, 1, _ => { }, cancellation);
                    return time.Elapsed.TotalSeconds / frames;
                }
            });
            double Mean(int from) => throughput.Where((_, at) => at % 2 == from).Average();
            double game = updates / Mean(0) + updates / Mean(1) + protocol.Frames * (seconds[0] + (Arms.Length - 1) * seconds[1]);
            return string.Create(CultureInfo.InvariantCulture,
                $"From short trainings: {seconds[0] * 1e6:0} us a frame of the DQN, {seconds[1] * 1e6:0} us of a linear probe; "
                + $"{game:0} s a game and seed without tests, {game * Games.Length * settings.Seeds.Count / 60:0} minutes in all.");
        }

        public double[] Part(ArcadeGame game, int seed, string arm)
        {
            var time = Stopwatch.StartNew();
            string key = $"{game}, seed {seed}, {arm}";
            double[] figures = journal.Part(key, () => arm == Dqn ? PlayDqn(game, seed) : Probe(game, seed, arm));
            if (arm == Dqn && !File.Exists(ReplayPath(game, seed))) _ = PlayDqn(game, seed); // its figures were kept, but not its replay
            _done += Weights[arm];
            Report(0);
            if (time.Elapsed.TotalSeconds >= 1)
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{key}: return {figures[0]:0.00}, {time.Elapsed.TotalSeconds:0} s"));
            return figures;
        }

        public void Complete()
        {
            journal.Complete();
            if (Directory.Exists(Folder)) Directory.Delete(Folder, recursive: true);
        }

        private string Folder => Path.Combine("artifacts", "bench", "models", settings.Quick ? "pvn-quick" : "pvn");

        private string ReplayPath(ArcadeGame game, int seed) => Path.Combine(Folder, $"{game}-{seed}.safetensors");

        private void Report(double ofPart) => progress.Report((_done + ofPart) / _all);

        private double[] PlayDqn(ArcadeGame game, int seed)
        {
            var games = new ArcadeEnvironment(game, protocol.Games, seed);
            using var values = new ConvolutionalActionValues(games, DqnFeatures, DqnRate, seed);
            var replay = new FrameReplay(protocol.ReplayFrames, protocol.Games, games.Channels, seed);
            double[] curve = ArcadeTraining.Train(
                games, values, replay, protocol, seed, part => Report(Weights[Dqn] * part), cancellation);
            Directory.CreateDirectory(Folder);
            replay.Save(ReplayPath(game, seed));
            var (score, length) = ArcadeTraining.Test(game, values, protocol, seed + 1000);
            return [score, length, 0, 0, .. curve];
        }

        private double[] Probe(ArcadeGame game, int seed, string arm)
        {
            var games = new ArcadeEnvironment(game, protocol.Games, seed);
            var seen = new FrameReplay(protocol.ReplayFrames, protocol.Games, games.Channels, seed);
            seen.Load(ReplayPath(game, seed));
            double weight = Weights[arm], dead = 0, loss = 0, trained = arm is Pvn or Cumulants ? 1 - Weights[Random] / weight : 0;
            var pretraining = new ArcadePretraining(seen, ArcadePretraining.Settings(game, seed), Batch);
            FrozenFeatures features;
            if (arm == Pixels)
            {
                features = FrozenFeatures.Pixels(games.Channels, seen, Sample);
            }
            else
            {
                ConvolutionalEncoder encoder;
                void Pretrained(double part) => Report(weight * trained * part);
                if (arm == Pvn)
                {
                    (encoder, var report, loss) = pretraining.ProtoValues(updates, Pretrained, cancellation);
                    dead = report.DeadTasks.Count;
                }
                else if (arm == Cumulants)
                {
                    (encoder, loss) = pretraining.Cumulants(updates, Pretrained, cancellation);
                }
                else
                {
                    encoder = pretraining.Untrained();
                }

                features = FrozenFeatures.Of(encoder, games.Channels, seen, Sample);
            }

            using var values = new LinearActionValues(features, protocol.ReplayFrames, ProbeRate);
            var replay = new FrameReplay(protocol.ReplayFrames, protocol.Games, games.Channels, seed);
            double[] curve = ArcadeTraining.Train(
                games, values, replay, protocol, seed, part => Report(weight * (trained + (1 - trained) * part)), cancellation);
            var (score, length) = ArcadeTraining.Test(game, values, protocol, seed + 1000);
            return [score, length, dead, loss, .. curve];
        }

        private static FrameReplay RandomReplay(ArcadeGame game, int frames)
        {
            const int Lanes = 16;
            var games = new ArcadeEnvironment(game, Lanes, seed: 1);
            var replay = new FrameReplay(frames, Lanes, games.Channels, seed: 1);
            var (packed, actions) = (new byte[Lanes * games.PackedBytes], new int[Lanes]);
            var (rewards, done) = (new float[Lanes], new bool[Lanes]);
            for (int step = 0; step < frames / Lanes; step++)
            {
                games.Observe(packed);
                games.ActUniformly(actions);
                games.Step(actions, rewards, done);
                replay.Add(packed, actions, rewards, done);
            }

            return replay;
        }
    }
}
