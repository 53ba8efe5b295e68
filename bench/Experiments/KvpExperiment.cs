using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// KV Prediction (S41) on real text: what a base generates from predicted keys and values, beside the base, the auxiliary model, and other
/// ways to the same saving. It evaluates checkpoints; <see cref="Train"/> makes them.
/// </summary>
internal sealed class KvpExperiment : ModelExperiment
{
    private const int Seeds = 3, QuickSeeds = 2, PeakBatch = 8, LargePrompt = 1024, LargeRounds = 5, QuickLargePrompt = 128;

    private static readonly torch.ScalarType[] WeightTypes = [torch.ScalarType.BFloat16, torch.ScalarType.Float32];

    // Compressed caches are read by the same model at the same cost; the largest batch leaves them out for time.
    private static readonly string[] Timed =
    [
        KvpArms.Base, KvpArms.Truncated, KvpArms.Auxiliary, KvpArms.Pruned, KvpArms.Split, KvpArms.PrunedSplit,
        KvpArms.Q8, KvpArms.Q4, KvpArms.SnapKv, KvpArms.KeyDiff, KvpArms.StreamingLlm,
    ];

    private static readonly string[] TimedInLargeBatches = Timed[..6];

    private static readonly (int Batch, int Rounds, string[] Arms)[] Timings =
        [(1, 9, Timed), (8, 5, Timed), (64, 3, TimedInLargeBatches)];

    private static readonly (int Batch, int Rounds, string[] Arms)[] QuickTimings = [(1, 1, Timed), (8, 1, TimedInLargeBatches)];

    public override string Name => "kvp";

    public override string Claim =>
        "With predicted keys and values, a base answers more questions about its prompt right than the auxiliary model does that was "
        + "trained on for as many steps.";

    public override Action<ModelSettings, IProgress<double>, CancellationToken> Train => (settings, progress, cancellation) =>
        new KvpRecipe(AustenNovels.LoadFull(DataStore.Default), KvpCheckpoints.Written)
            .Train([.. settings.Seeds.Take(Seeds)], progress, cancellation);

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        AustenNovels novels = AustenNovels.LoadBest();
        int[] seeds = [.. settings.Seeds.Take(settings.Quick ? QuickSeeds : Seeds)];
        KvpPlan plan = settings.Quick ? KvpPlan.Quick : new();
        KvpCheckpoints checkpoints = settings.Quick ? TrainQuickly(novels, plan, seeds, cancellation) : KvpCheckpoints.Best;
        KvpSamples samples = settings.Quick
            ? new(novels.HeldOut, [128, 256], Excerpts: 8, Questions: 8)
            : new(novels.HeldOut, [128, 256, 512, 1024], Excerpts: 96, Questions: 128);
        using var arms = new KvpArms(checkpoints, plan, seeds);
        var journal = new ExperimentJournal(Name, string.Create(
            CultureInfo.InvariantCulture,
            $"{novels.Source}, {string.Join(' ', samples.Lengths)}, {samples.Excerpts}, {samples.Questions}, {settings.Threads} threads"));
        var outcome = new KvpOutcome(samples, novels.Source, arms.Missing, plan);
        int parts = arms.All.Sum(arm => arm.Variants.Count)
            + (settings.Quick ? QuickTimings : Timings).Length * samples.Lengths.Count + 1 + WeightTypes.Length, done = 0;
        foreach (KvpArm arm in arms.All)
        {
            outcome.Arms[arm] =
            [
                .. arm.Variants.Select(variant => Part(
                    $"{arm.Name}, seed {variant.Seed}, {arms.Hash(variant)}", () => Evaluate(variant),
                    packed => KvpFigures.Unpack(packed, samples))),
            ];
        }

        Time(outcome, settings, Part, cancellation);
        foreach (torch.ScalarType type in WeightTypes)
        {
            outcome.Large.Add((type, Part(
                $"large shapes in {type}", () => Large(type, settings, plan, cancellation), packed => new KvpLargeTimes(
                    packed[0], packed[1..(packed.Length / 2 + 1)], packed[(packed.Length / 2 + 1)..]))));
        }

        journal.Complete();
        return KvpReport.Of(Name, Claim, outcome, settings);

        T Part<T>(string key, Func<double[]> work, Func<double[], T> read)
        {
            T result = read(journal.Part(key, work));
            progress.Report((double)++done / parts);
            return result;
        }

        double[] Evaluate(KvpVariant variant)
        {
            using KvpSystem system = variant.Create();
            return KvpEvaluation.Run(system, samples, cancellation).Pack();
        }
    }

    // Models that know nothing, made by the same recipe and read from the same kind of files.
    private static KvpCheckpoints TrainQuickly(AustenNovels novels, KvpPlan plan, int[] seeds, CancellationToken cancellation)
    {
        string folder = Path.Combine("artifacts", "bench", "kvp-quick");
        if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        var checkpoints = new KvpCheckpoints(folder);
        new KvpRecipe(novels, checkpoints, plan, Path.Combine(folder, "work")).Train(seeds, new Silent(), cancellation);
        return checkpoints;
    }

    private delegate T PartOf<T>(string key, Func<double[]> work, Func<double[], T> read);

    private static void Time(KvpOutcome outcome, ModelSettings settings, PartOf<double[]> part, CancellationToken cancellation)
    {
        KvpSamples samples = outcome.Samples;
        List<(string Name, KvpSystem System)> systems =
            [.. outcome.Arms.Keys.Where(arm => Timed.Contains(arm.Name)).Select(arm => (arm.Name, arm.Variants[0].Create()))];
        try
        {
            foreach ((int batch, int rounds, string[] names) in settings.Quick ? QuickTimings : Timings)
            {
                (string Name, KvpSystem System)[] own = [.. systems.Where(system => names.Contains(system.Name))];
                foreach (int prompt in samples.Lengths)
                {
                    double[] packed = part($"time of {prompt} x {batch}, {own.Length}", () =>
                    [
                        .. KvpTiming.Run(
                                [.. own.Select(system => system.System)], samples, prompt, batch, rounds, settings.Threads, cancellation)
                            .SelectMany(time => (double[])[time.First, time.OfBase, time.Next]),
                    ], packed => packed);
                    foreach (((string name, _), double[] time) in own.Zip(packed.Chunk(3)))
                        outcome.Times.Add((name, new(prompt, batch, time[0], time[1], time[2])));
                }
            }

            double[] peaks = part($"peaks, {systems.Count}", () =>
            [
                .. systems.Select(system => KvpTiming.PeakBytes(system.System, samples, samples.Lengths[^1], PeakBatch) ?? 0),
            ], packed => packed);
            foreach (((string name, _), double peak) in systems.Zip(peaks)) outcome.Peaks[name] = peak;
            foreach ((string name, KvpSystem system) in systems) outcome.Work[name] = [.. samples.Lengths.Select(system.Operations)];
        }
        finally
        {
            foreach ((_, KvpSystem system) in systems) system.Dispose();
        }
    }

    private static double[] Large(torch.ScalarType type, ModelSettings settings, KvpPlan plan, CancellationToken cancellation)
    {
        var (whole, small, prompt) = settings.Quick
            ? (plan.BaseOptions, plan.AuxiliaryOptions, QuickLargePrompt)
            : (OpenElm.Options1B, OpenElm.Options450M, LargePrompt);
        KvpLargeTimes times = KvpLargeTimes.Measure(
            whole with { WeightType = type }, small with { WeightType = type }, prompt, LargeRounds, settings.Threads, cancellation);
        return [times.Base, .. times.Auxiliary, .. times.Prediction];
    }

    private sealed class Silent : IProgress<double>
    {
        public void Report(double value)
        {
        }
    }
}
