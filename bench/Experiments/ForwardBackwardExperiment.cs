using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Forward-backward representations in four rooms: pre-trained on a random walk without any reward, then sent to each of the 104 cells
/// without any more training. The controls have the same F, the same batches and as many steps, but a B that does not learn.
/// </summary>
internal sealed class ForwardBackwardExperiment : ModelExperiment
{
    private const int Walkers = 32, WalkSteps = 1000, TimeLimit = 50;
    private const int Batch = 256, Dimension = 25, Steps = 4000, QuickSteps = 40;
    private const string Learned = "forward-backward", Untrained = "forward-backward, untrained", Random = "random features",
        Laplacian = "Laplacian features", Optimum = "exact optimum";

    // Chosen with seed 1 of the learned arm, in some twenty short trainings; the controls take them over. A normalised measure has values
    // that a network reaches in few steps. All z are goals, because goals are what is asked for.
    private static readonly ForwardBackwardSettings Settings = new()
    {
        ObservationSize = FourRooms.States,
        Actions = FourRooms.Actions,
        Dimension = Dimension,
        Hidden = 128,
        Loss = new() { Discount = 0.95, Convention = FbConvention.MetaMotivo, Normalised = true },
        LearningRate = 2e-3,
        BackwardLearningRate = 1e-3,
        TargetDecay = 0.95,
        GoalFraction = 1,
        Temperature = 0.5,
    };

    private static readonly string[] Arms = [Learned, Untrained, Random, Laplacian];

    public override string Name => "fb";

    public override string Claim =>
        "Pre-trained without reward, an agent comes to more goals with forward-backward representations than with random features.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        int steps = settings.Quick ? QuickSteps : Steps;
        var journal = new ExperimentJournal(Name, $"{steps} steps of {Batch}, seeds {string.Join(' ', settings.Seeds)}; {Settings}");
        var reaching = new GoalReaching(FourRooms.World);
        var figures = Arms.ToDictionary(arm => arm, _ => new List<double[]>());
        double done = 0, all = settings.Seeds.Count * Arms.Length;
        foreach (int seed in settings.Seeds)
        {
            foreach (string arm in Arms)
            {
                figures[arm].Add(journal.Part($"{arm}, seed {seed}", () =>
                {
                    using Agent agent = new(arm, seed);
                    agent.Train(arm == Untrained ? 0 : steps, part => progress.Report((done + part) / all), cancellation);
                    GoalReaching.Score score = reaching.Of(agent.Policies());
                    return [score.Reached, score.WholeGoals];
                }));
                done++;
                progress.Report(done / all);
            }
        }

        GoalReaching.Score best = reaching.Of(reaching.ShortestPaths());
        string[] metrics =
        [
            "% of 10,712 pairs of start and goal, reached within twice the shortest path", "of 104 goals, reached so from every start",
        ];
        ModelRow Row(string arm, int metric) =>
            new(arm, IsControl: arm != Learned, metrics[metric], [.. figures[arm].Select(values => values[metric])]);
        ModelRow OptimumRow(int metric, double value) =>
            new(Optimum, IsControl: true, metrics[metric], [.. settings.Seeds.Select(_ => value)]);
        List<ModelRow> rows = [.. Arms.Select(arm => Row(arm, 0)), OptimumRow(0, best.Reached), .. Arms.Select(arm => Row(arm, 1)),
            OptimumRow(1, best.WholeGoals)];
        journal.Complete();
        string against = string.Join("; ", ((string[])[Laplacian, Untrained]).Select(control => Against(rows[0], Row(control, 0))));
        string claim = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} (four rooms, {Walkers * WalkSteps:N0} random moves, d = {Dimension}, {steps:N0} steps of {Batch}; no training after "
            + $"that. {against})");
        return new(Name, claim, rows, ModelDifference.Between(rows[0], rows[Array.IndexOf(Arms, Random)]));
    }

    private static string Against(ModelRow arm, ModelRow control)
    {
        ModelDifference difference = ModelDifference.Between(arm, control);
        string interval = difference is { Low: { } low, High: { } high }
            ? string.Create(CultureInfo.InvariantCulture, $" [{low:0.0}, {high:0.0}]")
            : "";
        return string.Create(CultureInfo.InvariantCulture, $"less {control.Arm}: {difference.Mean:0.0}{interval}");
    }

    /// <summary>One arm of one seed: its agent and what it learns from.</summary>
    private sealed class Agent : IDisposable
    {
        private readonly Tensor _observations = torch.eye(FourRooms.States);
        private readonly ReplayBuffer _buffer;
        private readonly Table? _features;
        private readonly ForwardBackward _agent;

        public Agent(string arm, int seed)
        {
            _buffer = new(Walkers * WalkSteps, seed);
            _buffer.Collect(new TabularEnvironment(FourRooms.World, Walkers, seed, TimeLimit), WalkSteps);
            ForwardBackwardSettings settings = Settings with { Seed = seed };
            _features = arm switch { Random => RandomRows(seed), Laplacian => SmoothestRows(), _ => null };
            _agent = _features is null ? new(settings) : ForwardBackward.OnFixedFeatures(settings, _features);
        }

        public void Train(int steps, Action<double> progress, CancellationToken cancellation)
        {
            for (int step = 0; step < steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = torch.NewDisposeScope();
                _agent.Update(_buffer.Sample(Batch, _observations));
                if (step % 20 == 0) progress(step / (double)steps);
            }
        }

        /// <summary>For each goal, the greedy action of each state.</summary>
        public IReadOnlyList<int[]> Policies()
        {
            using var scope = torch.NewDisposeScope();
            Tensor z = _agent.GoalToZ(_observations);
            return [.. Enumerable.Range(0, FourRooms.States).Select(goal =>
                _agent.Act(_observations, z.narrow(0, goal, 1)).data<long>().Select(action => (int)action).ToArray())];
        }

        public void Dispose()
        {
            _agent.Dispose();
            _features?.Dispose();
            _observations.Dispose();
        }

        /// <summary>Directions without any meaning, of the length that B has.</summary>
        private static Table RandomRows(int seed)
        {
            using var scope = torch.NewDisposeScope();
            using var generator = new torch.Generator((ulong)seed, torch.CPU);
            Tensor rows = torch.randn([FourRooms.States, Dimension], generator: generator);
            return new(rows * Math.Sqrt(Dimension) / rows.norm(1, true));
        }

        /// <summary>The d smoothest eigenvectors of the graph's Laplacian, I − P, of mean square 1.</summary>
        private static Table SmoothestRows()
        {
            using var scope = torch.NewDisposeScope();
            Tensor p = torch.tensor(FourRooms.World.Transitions(), [FourRooms.States, FourRooms.States], torch.float64);
            Tensor vectors = torch.linalg.eigh(p).Item2; // by rising eigenvalues of P
            return new((vectors.narrow(1, FourRooms.States - Dimension, Dimension) * Math.Sqrt(FourRooms.States)).to(torch.float32));
        }
    }

    /// <summary>Features that are looked up.</summary>
    private sealed class Table : torch.nn.Module<Tensor, Tensor>
    {
        private readonly Tensor _rows;

        public Table(Tensor rows) : base(nameof(Table)) => _rows = rows.contiguous().DetachFromDisposeScope();

        public override Tensor forward(Tensor input) => input.matmul(_rows);

        protected override void Dispose(bool disposing)
        {
            if (disposing) _rows.Dispose();
            base.Dispose(disposing);
        }
    }
}
