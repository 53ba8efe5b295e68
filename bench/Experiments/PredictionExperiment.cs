using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Does predicting latent states help a small agent, and does it matter how far ahead? After Fang and Stachenfeld (ICLR 2024), who claim
/// that prediction stabilises learning, most in small networks, and that longer horizons transfer better. A first run with
/// weights of 1 on seeds 1 and 2 showed slower learning; the weights, and transfer as what decides, were then chosen on seeds 101 and 102.
/// </summary>
internal sealed class PredictionExperiment : ModelExperiment
{
    private const int Steps = 3000, QuickSteps = 60, Evaluations = 30, TransferSteps = 2000;

    private static readonly LatentPredictionSettings Prediction = new()
    {
        Latent = GridAgent.Width, Actions = FourRooms.Actions, PredictionWeight = 0.01, SeparationWeight = 0.001,
    };

    private static readonly (string Name, LatentPredictionSettings? Settings)[] Arms =
    [
        ("no auxiliary objective", null),
        ("separation only", Prediction with { PredictionWeight = 0 }),
        ("prediction, horizon 0", Prediction),
        ("prediction, horizon 0.8", Prediction with { Horizon = 0.8 }),
    ];

    public override string Name => "prediction";

    public override string Claim =>
        "With prediction of latent states beside it, what a narrow network learns for one goal serves another goal better.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        int steps = settings.Quick ? QuickSteps : Steps, transferSteps = settings.Quick ? QuickSteps : TransferSteps;
        Outcomes[] results = [.. Arms.Select(_ => new Outcomes())];
        double done = 0, all = (double)settings.Seeds.Count * Arms.Length;
        foreach (int seed in settings.Seeds)
        {
            var goals = new Random(seed);
            int goal = goals.Next(FourRooms.States), other = (goal + 1 + goals.Next(FourRooms.States - 1)) % FourRooms.States;
            for (int arm = 0; arm < Arms.Length; arm++)
            {
                using var agent = new GridAgent(goal, seed, Arms[arm].Settings);
                double sum = 0, last = 0;
                for (int step = 1; step <= steps; step++)
                {
                    cancellation.ThrowIfCancellationRequested();
                    agent.Step();
                    if (step % (steps / Evaluations) == 0) sum += last = agent.Success();
                    progress.Report((done + 0.8 * step / steps) / all);
                }

                results[arm].Learning.Add(sum / Evaluations);
                results[arm].Final.Add(last);
                results[arm].Transfer.Add(agent.Transfer(other, seed, transferSteps, cancellation));
                using var scope = torch.NewDisposeScope();
                Tensor latent = agent.Latent();
                results[arm].Rank.Add(EffectiveRank(latent));
                results[arm].Position.Add(PositionExplained(latent));
                progress.Report(++done / all);
            }
        }

        string text(FormattableString format) => format.ToString(CultureInfo.InvariantCulture);
        ModelRow[] Rows(string metric, Func<Outcomes, List<double>> values) =>
            [.. Arms.Select((arm, i) => new ModelRow(arm.Name, IsControl: i < 2, metric, values(results[i])))];
        ModelRow[] transfer = Rows(
            text($"cells from which another goal is reached, %, encoder frozen, {transferSteps:N0} steps of a new head"),
            outcomes => outcomes.Transfer);
        return new(
            "S05",
            $"{Claim} (four rooms, one-hot cells, latent states of {GridAgent.Width} numbers, double DQN; reached: within twice the "
            + "shortest path)",
            [
                .. transfer,
                .. Rows(
                    text($"cells from which the first goal is reached, %, mean over {steps:N0} training steps"),
                    outcomes => outcomes.Learning),
                .. Rows("the same at the end, %", outcomes => outcomes.Final),
                .. Rows($"effective rank of the latent states, of {GridAgent.Width}", outcomes => outcomes.Rank),
                .. Rows("row and column read from them linearly, R²", outcomes => outcomes.Position),
            ],
            ModelDifference.Between(transfer[3], transfer[0]));
    }

    // e to the entropy of the singular values' shares (Roy and Vetterli 2007), of latent states less their mean.
    private static double EffectiveRank(Tensor latent)
    {
        double[] values = torch.linalg.svdvals((latent - latent.mean([0])).to(torch.float64)).data<double>().ToArray();
        double sum = values.Sum();
        return Math.Exp(-values.Where(value => value > 0).Sum(value => value / sum * Math.Log(value / sum)));
    }

    private static double PositionExplained(Tensor latent)
    {
        double[] places = [.. Enumerable.Range(0, FourRooms.States).SelectMany(state =>
            (double[])[FourRooms.Position(state).Row, FourRooms.Position(state).Column])];
        Tensor positions = torch.tensor(places).view(FourRooms.States, 2);
        using LinearReadout readout = LinearReadout.Fit(latent, positions);
        return readout.Explained(latent, positions);
    }

    private sealed class Outcomes
    {
        public List<double> Learning { get; } = [];

        public List<double> Final { get; } = [];

        public List<double> Transfer { get; } = [];

        public List<double> Rank { get; } = [];

        public List<double> Position { get; } = [];
    }
}
