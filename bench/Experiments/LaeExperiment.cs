using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Learning-Accumulation-Ensemble on Fashion-MNIST in five tasks of two classes, over a backbone that was pre-trained without labels. One
/// training gives three arms, because the offline expert changes nothing of the online one: what each of them, and both together, predict.
/// </summary>
internal sealed class LaeExperiment : ModelExperiment
{
    private const int PretrainingSteps = 2500, TaskSteps = 120, QuickSteps = 4, Tasks = 5, ClassesOfTask = 2, BatchSize = 64;
    private const double Rate = 3e-3, PretrainingRate = 1e-3, KeptPerTask = 0.9, FrozenPart = 0.3;

    private const string Forgetting = "forgetting, points";

    private static readonly LaeExpert[] Experts = [LaeExpert.Online, LaeExpert.Offline, LaeExpert.Ensemble];

    public override string Name => "lae";

    public override string Claim =>
        "Online and offline expert together label more images of all tasks right, after the last task, than the online expert alone.";

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        FashionMnist data = FashionMnist.LoadBest();
        using var train = ImageTensors.Of(data.Train);
        using var test = ImageTensors.Of(settings.Quick ? data.Test.First(500) : data.Test);
        (int pretraining, int steps) = settings.Quick ? (QuickSteps, QuickSteps) : (PretrainingSteps, TaskSteps);
        EfficientKind[] kinds = Enum.GetValues<EfficientKind>();
        var journal = new ExperimentJournal(Name, string.Create(CultureInfo.InvariantCulture,
            $"{data.Source}, {test.Count} test images, {pretraining} + {steps} steps, {settings.Backend}, {settings.Threads} threads"));

        double done = 0, all = pretraining + kinds.Length * settings.Seeds.Count * Tasks * steps;
        using AdaptableTransformer backbone = Pretrain();
        var results = kinds.ToDictionary(kind => kind, _ => new List<double[]>());
        foreach (int seed in settings.Seeds)
        {
            foreach (EfficientKind kind in kinds)
            {
                double before = done;
                results[kind].Add(journal.Part($"{kind}, order {seed}", () => Learn(kind, seed)));
                progress.Report((done = before + Tasks * steps) / all);
            }
        }

        journal.Complete();
        string metric = string.Create(CultureInfo.InvariantCulture, $"accuracy after {Tasks} tasks, % of {test.Count:N0} test images");
        ModelRow[] accuracy = [.. kinds.SelectMany(kind => Rows(kind, metric, 0))];
        ModelRow[] forgetting = [.. kinds.SelectMany(kind => Rows(kind, Forgetting, 1))];
        ModelDifference[] differences =
        [
            .. accuracy.Chunk(Experts.Length).SelectMany(Differences),
            .. forgetting.Chunk(Experts.Length).SelectMany(Differences).Select(
                difference => difference with { Metric = Forgetting, LowerIsBetter = true }),
        ];
        string what = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} ({data.Source}; {Tasks} tasks of {ClassesOfTask} classes, {steps} steps of {BatchSize} images each, "
            + $"{settings.Seeds.Count} orders of classes; a vision transformer, pre-trained for {pretraining} steps as a masked "
            + $"autoencoder)");
        return new(Name, what, [.. accuracy, .. forgetting], differences[0]) { Others = differences[1..] };

        IEnumerable<ModelRow> Rows(EfficientKind kind, string of, int part) => Experts.Select((expert, i) => new ModelRow(
            ArmOf(kind, expert), expert != LaeExpert.Ensemble, of, [.. results[kind].Select(values => values[part * Experts.Length + i])]));

        AdaptableTransformer Pretrain()
        {
            torch.manual_seed(0);
            var encoder = new AdaptableTransformer();
            var autoencoder = new AdaptableAutoencoder(encoder);
            using var random = new torch.Generator(0);
            using var optimizer = new Models.AdamW(autoencoder.parameters(), PretrainingRate, weight_decay: 0.05);
            for (int step = 0; step < pretraining; step++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = torch.NewDisposeScope();
                Tensor batch = torch.randint(0, train.Count, [2 * BatchSize], generator: random);
                optimizer.ParamGroups.First().LearningRate = PretrainingRate * 0.5 * (1 + Math.Cos(Math.PI * step / pretraining));
                optimizer.zero_grad();
                autoencoder.Loss(train.Images.index_select(0, batch), random).backward();
                optimizer.step();
                progress.Report(++done / all);
            }

            foreach (var parameter in encoder.parameters()) parameter.requires_grad_(false);
            return encoder;
        }

        // For each expert the accuracy after the last task, then for each its forgetting.
        double[] Learn(EfficientKind kind, int seed)
        {
            torch.manual_seed(seed);
            int[] order = ClassIncremental.Order(data.Train.ClassNames.Count, seed);
            var options = new LearnAccumulateEnsembleOptions
            {
                Decay = LearnAccumulateEnsembleOptions.DecayFor(steps, KeptPerTask), FreezeSteps = (long)(FrozenPart * steps),
            };
            using var lae = new LearnAccumulateEnsemble<EfficientModules>(
                () => new EfficientModules(kind), backbone.Features, AdaptableTransformer.Width, options)
            {
                Backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true),
            };
            ClassIncremental[] measured = [.. Experts.Select(_ => new ClassIncremental())];
            using var random = new torch.Generator((ulong)seed);
            for (int task = 0; task < Tasks; task++)
            {
                lae.BeginTask(ClassesOfTask);
                using Tensor of = OfTask(train, order, task);
                using var optimizer = new Models.AdamW(lae.Parameters, Rate);
                for (int step = 0; step < steps; step++)
                {
                    cancellation.ThrowIfCancellationRequested();
                    using var scope = torch.NewDisposeScope();
                    Tensor batch = of.index_select(0, torch.randint(0, of.shape[0], [BatchSize], generator: random));
                    optimizer.zero_grad();
                    lae.Backward(train.Images.index_select(0, batch), Numbered(train.Labels.index_select(0, batch), order));
                    optimizer.step();
                    lae.Accumulate();
                    progress.Report(++done / all);
                }

                for (int i = 0; i < Experts.Length; i++)
                    measured[i].Add([.. Enumerable.Range(0, task + 1).Select(t => Accuracy(lae, Experts[i], order, t))]);
            }

            return [.. measured.Select(m => m.LastAccuracy), .. measured.Select(m => m.Forgetting)];
        }

        double Accuracy(LearnAccumulateEnsemble<EfficientModules> lae, LaeExpert expert, int[] order, int task)
        {
            using var scope = torch.NewDisposeScope();
            Tensor of = OfTask(test, order, task);
            long right = 0;
            foreach (Tensor batch in of.split(500))
            {
                using var part = torch.NewDisposeScope();
                Tensor labels = Numbered(test.Labels.index_select(0, batch), order);
                right += lae.Predict(test.Images.index_select(0, batch), expert).argmax(1).eq(labels).sum().item<long>();
            }

            return 100.0 * right / of.shape[0];
        }
    }

    private static string ArmOf(EfficientKind kind, LaeExpert expert) =>
        $"{(kind == EfficientKind.Lora ? "LoRA" : kind.ToString())}, {expert.ToString().ToLowerInvariant()}"
        + (expert == LaeExpert.Ensemble ? "" : " only");

    // Of the ensemble to either expert.
    private static IEnumerable<ModelDifference> Differences(ModelRow[] experts) =>
        [ModelDifference.Between(experts[2], experts[0]), ModelDifference.Between(experts[2], experts[1])];

    // The numbers of the images of a task.
    private static Tensor OfTask(ImageTensors images, int[] order, int task)
    {
        using var scope = torch.NewDisposeScope();
        Tensor numbered = Numbered(images.Labels, order);
        Tensor first = numbered.ge(task * ClassesOfTask), last = numbered.lt((task + 1) * ClassesOfTask);
        return first.logical_and(last).nonzero().flatten().MoveToOuterDisposeScope();
    }

    // Classes by their place in the order.
    private static Tensor Numbered(Tensor labels, int[] order)
    {
        using var scope = torch.NewDisposeScope();
        long[] places = [.. Enumerable.Range(0, order.Length).Select(label => (long)Array.IndexOf(order, label))];
        return torch.tensor(places).index_select(0, labels).MoveToOuterDisposeScope();
    }
}
