using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using Module = TorchSharp.torch.nn.Module<TorchSharp.torch.Tensor, TorchSharp.torch.Tensor>;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Momentum Auxiliary Network: fifteen blocks that no gradient connects. Does the average of the next block's first layer help them? What
/// do they save in memory, and what does it cost in time, beside backpropagation with and without activation checkpointing?
/// </summary>
internal sealed class ManExperiment : ModelExperiment
{
    private const long Steps = 500, QuickSteps = 6;
    private const int TimedRounds = 15, QuickTimedRounds = 2, TimedWarmUp = 3, MemoryPasses = 5, MemoryWarmUp = 2, Segments = 4;
    private const string Checkpointing = "end to end, checkpointing";

    public override string Name => "man";

    public override string Claim =>
        "Blocks that are trained locally classify better with a moving average of the next block's first layer (m = 0.995) "
        + "than with the same layer frozen as it began (m = 1).";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        using var train = ImageTensors.Of(data.Train);
        using var test = ImageTensors.Of(settings.Quick ? data.Test.First(500) : data.Test);
        long steps = settings.Quick ? QuickSteps : Steps;
        AuxBackend backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        IReadOnlyList<LocalArm> arms = LocalArm.All;
        var journal = new ExperimentJournal(Name, string.Create(CultureInfo.InvariantCulture,
            $"{data.Source}, {test.Count} test images, {steps} steps, {settings.Backend}, {settings.Threads} threads"));

        var work = new Work(progress, journal, arms.Count * settings.Seeds.Count * steps);
        var accuracies = arms.ToDictionary(arm => arm.Name, _ => new List<double>());
        foreach (int seed in settings.Seeds)
        {
            foreach (LocalArm arm in arms)
                accuracies[arm.Name].Add(work.Do($"{arm.Name}, seed {seed}", steps, step => Train(arm, seed, step))[0]);
        }

        string[] timed = [arms[0].Name, Checkpointing, arms[1].Name, arms[2].Name, arms[4].Name];
        List<double[]> costs = [.. settings.Seeds.Select(seed => journal.Part($"costs, seed {seed}", () => Costs(seed)))];
        journal.Complete();

        string metric = string.Create(CultureInfo.InvariantCulture, $"accuracy after {steps} steps, % of {test.Count:N0} test images");
        ModelRow[] rows = [.. arms.Select(arm => new ModelRow(arm.Name, arm.IsControl, metric, accuracies[arm.Name]))];
        ModelRow[] memory = !AllocatedBytes.IsAvailable ? [] : CostRows("activations held for a backward pass, at most, MB", 0);
        ModelRow[] time = CostRows($"a training step, ms of {(ThreadClock.IsCpuTime ? "processor time" : "wall time")}, median", 1);
        string batch = string.Create(CultureInfo.InvariantCulture, $"batch of {LocalTraining.BatchSize}");
        return new(
            Name, $"{Claim} ({data.Source}; residual network of {ResidualNetwork.Depth} blocks, {batch}; m = 1 is the control)",
            [.. rows, .. memory, .. time], ModelDifference.Between(rows[4], rows[5]))
        {
            Others =
            [
                ModelDifference.Between(rows[4], rows[1]), ModelDifference.Between(rows[4], rows[2]),
                ModelDifference.Between(rows[3], rows[5]), ModelDifference.Between(rows[4], rows[0]),
            ],
        };

        double[] Train(LocalArm arm, int seed, Action<long> done)
        {
            using var training = new LocalTraining(train, arm, steps, seed, backend);
            for (long step = 1; step <= steps; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                training.Step();
                done(step);
            }

            return [training.Accuracy(test)];
        }

        // For each of the timed arms: memory in MB, then time in ms.
        double[] Costs(int seed)
        {
            LocalTraining[] trainings =
            [
                .. timed.Select(name => new LocalTraining(
                    train, arms.FirstOrDefault(arm => arm.Name == name) ?? arms[0], steps, seed, backend)),
            ];
            Action[] each = [.. trainings.Select((training, i) => StepOf(training, timed[i]))];
            double[] memory = [.. trainings.Select((training, i) => 1e-6 * Held(training, timed[i]))];
            List<double>[] times = [.. timed.Select(_ => new List<double>())];
            int[] order = [.. Enumerable.Range(0, timed.Length)];
            var random = new Random(seed);
            int rounds = settings.Quick ? QuickTimedRounds : TimedRounds;
            for (int round = -TimedWarmUp; round < rounds; round++)
            {
                cancellation.ThrowIfCancellationRequested();
                random.Shuffle(order);
                foreach (int i in order)
                {
                    long start = ThreadClock.Nanoseconds();
                    each[i]();
                    if (round >= 0) times[i].Add(1e-6 * (ThreadClock.Nanoseconds() - start));
                }
            }

            foreach (LocalTraining training in trainings) training.Dispose();
            return [.. memory, .. times.Select(list => Quartiles.Of([.. list]).Median)];
        }

        ModelRow[] CostRows(string of, int part) =>
            [
                .. timed.Select((name, i) => new ModelRow(
                    name, name != arms[4].Name, of, [.. costs.Select(values => values[part * timed.Length + i])])),
            ];
    }

    private static Action StepOf(LocalTraining training, string name) => name == Checkpointing
        ? () => training.Step((images, labels) => ActivationCheckpointing.Backward(SegmentsOf(training), images, labels))
        : training.Step;

    // Bytes that are there at a backward pass and were not before the step: what autograd saved, block inputs, the batch. The most of all
    // backward passes of a step. Gradients of parameters are there before, from a first pass.
    private static double Held(LocalTraining training, string name)
    {
        if (!AllocatedBytes.IsAvailable) return 0; // the row is left out
        long most = 0, start = long.MaxValue / 2;
        void Look() => most = Math.Max(most, AllocatedBytes.Now() - start);
        Action<Tensor, Tensor>? backward = name == Checkpointing
            ? (images, labels) => ActivationCheckpointing.Backward(SegmentsOf(training), images, labels, Look)
            : null;
        training.BeforeBackward = Look;
        var passes = new List<double>();
        for (int pass = -MemoryWarmUp; pass < MemoryPasses; pass++)
        {
            most = 0;
            start = AllocatedBytes.Now();
            training.Accumulate(backward);
            if (pass >= 0) passes.Add(most);
        }

        training.BeforeBackward = null;
        return Quartiles.Of([.. passes]).Median; // finalisers may free something of before in between
    }

    // As equal as can be: about the root of the number of layers keeps least.
    private static IReadOnlyList<IReadOnlyList<Module>> SegmentsOf(LocalTraining training) =>
        [.. training.Layers.Chunk((training.Layers.Count + Segments - 1) / Segments)];

    /// <summary>Runs what is not finished, and tells how far all of it is: what the journal had took no time and is left out.</summary>
    private sealed class Work(IProgress<double> progress, ExperimentJournal journal, long all)
    {
        private long _done, _skipped;

        public double[] Do(string run, long steps, Func<Action<long>, double[]> compute)
        {
            bool computed = false;
            double[] values = journal.Part(run, () =>
            {
                computed = true;
                return compute(step => progress.Report((double)(_done + step) / Math.Max(1, all - _skipped)));
            });
            if (computed) _done += steps;
            else _skipped += steps;
            return values;
        }
    }
}
