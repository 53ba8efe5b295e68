using System.Globalization;
using AuxCore.Bench.Data;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// How the models of the KV-prediction experiment are made: a base and an auxiliary model, both trained on the same bytes in the same
/// order, first mostly on text and then mostly on recall; the base with layers left out, trained on; and predictors.
/// </summary>
internal sealed class KvpRecipe
{
    /// <summary>The sequence lengths of a training: mostly short, every fourth step long, so prompts of 1,024 are nothing new.</summary>
    private const int ShortLength = 256, LongLength = 1152, LongEvery = 4, ShortSequences = 4, LongSequences = 1;

    // The second stage: after the first, no model recalled anything.
    private const int RecallLength = 96, RecallSequences = 10;
    private const double RecallRate = 1e-3;

    /// <summary>A predictor reads less a step than a language model, and takes more steps.</summary>
    private const int PredictorSequences = 1, PredictorLength = 128, PredictorLongEvery = 16, PredictorRecallEvery = 3;

    // Sequences of the held-out book that tell when to end, as many of recall where that is learnt, and what of each is prompt.
    private const int HeldOutSequences = 16, HeldOutPrompt = 160, HeldOutSeed = 3;

    private const double LanguageRate = 2e-3, PredictorRate = 1e-3;

    private static readonly string PredictorSettings = string.Create(
        CultureInfo.InvariantCulture,
        $"{PredictorSequences} x {PredictorLength}, each {PredictorLongEvery} 1 x {LongLength}, recall 1 of {PredictorRecallEvery}");

    private readonly AustenNovels _novels;
    private readonly KvpPlan _plan;
    private readonly KvpCheckpoints _checkpoints;
    private readonly string _work;

    /// <param name="novels">What is learnt.</param>
    /// <param name="checkpoints">Where finished models are.</param>
    /// <param name="plan">The sizes.</param>
    /// <param name="work">Where unfinished ones are.</param>
    public KvpRecipe(AustenNovels novels, KvpCheckpoints checkpoints, KvpPlan? plan = null, string? work = null)
    {
        (_novels, _checkpoints, _plan) = (novels, checkpoints, plan ?? new());
        _work = work ?? Path.Combine("artifacts", "bench", "kvp");
    }

    /// <summary>Trains whatever is not there yet, one after the other.</summary>
    /// <param name="seeds">Of the predictors.</param>
    /// <param name="progress">Gets the fraction done.</param>
    /// <param name="cancellation">Ends it; the next call goes on.</param>
    public void Train(IReadOnlyList<int> seeds, IProgress<double> progress, CancellationToken cancellation)
    {
        Piece[] pieces = [.. Pieces(seeds)];
        double all = pieces.Sum(piece => piece.Work), done = 0;
        foreach (Piece piece in pieces)
        {
            if (!_checkpoints.Has(piece.Name))
                Train(piece, fraction => progress.Report((done + fraction * piece.Work) / all), cancellation);
            progress.Report((done += piece.Work) / all);
        }
    }

    private IEnumerable<Piece> Pieces(IReadOnlyList<int> seeds)
    {
        yield return Language("base-text", _plan.BaseOptions);
        yield return Language("auxiliary-text", _plan.AuxiliaryOptions);
        yield return Recall("base", "base-text", _plan.BaseOptions, _plan.RecallSteps);
        yield return Recall("auxiliary", "auxiliary-text", _plan.AuxiliaryOptions, _plan.RecallSteps);
        yield return Recall("pruned", "base", _plan.PrunedOptions, _plan.PrunedSteps, pruned: true);
        // What the claim rests on first: a training that is broken off for good still has its main arm.
        foreach (int seed in seeds)
            yield return Predictor($"split-{seed}", seed, _plan.AuxiliaryOptions, "auxiliary", null, split: true, null);
        foreach (int seed in seeds)
            yield return Continued($"continued-{seed}", seed);
        foreach (int seed in seeds)
        {
            yield return Predictor($"published-{seed}", seed, _plan.AuxiliaryOptions, "auxiliary", null, split: false, null);
            yield return Predictor($"no-cache-loss-{seed}", seed, _plan.AuxiliaryOptions, "auxiliary", null, split: true, 0);
            yield return Predictor($"pruned-split-{seed}", seed, _plan.PrunedOptions, "pruned", _plan.PrunedMap, split: true, null);
        }
    }

    private Piece Language(string name, DecoderOptions options) => new(
        name, _plan.LanguageSteps, LanguageRate, "seed 1",
        _plan.LanguageSteps * (double)KvPredictionCost.Parameters(options) * ShortSequences, () =>
        {
            torch.manual_seed(1);
            var model = new CausalDecoder(options);
            var batches = new TextBatches(_novels, seed: 1);
            return new(
                new() { ["model"] = model }, step => NextToken(model, LanguageBatch(batches, step, (double)step / _plan.LanguageSteps)),
                () => NextToken(model, HeldOutBatch()), [model]);
        });

    private Piece Recall(string name, string from, DecoderOptions options, int steps, bool pruned = false) => new(
        name, steps, RecallRate, $"from {from}, seed 2", steps * (double)KvPredictionCost.Parameters(options) * ShortSequences, () =>
        {
            CausalDecoder model = pruned ? FromBase(options) : _checkpoints.Load(from, options);
            var batches = new TextBatches(_novels, seed: 2);
            return new(
                // The layer-pruned model begins as one that can recall, so it needs no curriculum.
                new() { ["model"] = model }, step => NextToken(model, RecallBatch(batches, step, pruned ? 1 : (double)step / steps)),
                () => NextToken(model, HeldOutBatchAndRecall()), [model]);
        });

    private Piece Continued(string name, int seed) => new(
        name, _plan.PredictorSteps, PredictorRate, $"seed {seed}, {PredictorSettings}",
        _plan.PredictorSteps * (double)KvPredictionCost.Parameters(_plan.AuxiliaryOptions) * PredictorSequences, () =>
        {
            CausalDecoder model = _checkpoints.Load("auxiliary", _plan.AuxiliaryOptions);
            var batches = new TextBatches(_novels, 100 + seed);
            return new(new() { ["model"] = model }, step => NextToken(model, PredictorBatch(batches, step)),
                () => NextToken(model, HeldOutBatchAndRecall()), [model]);
        });

    private Piece Predictor(
        string name, int seed, DecoderOptions options, string auxiliary, IReadOnlyList<int>? map, bool split, double? cacheWeight) => new(
        name, _plan.PredictorSteps, PredictorRate,
        $"seed {seed}, {PredictorSettings}, {(split ? "split" : "as published")}, "
            + $"cache weight {cacheWeight?.ToString(CultureInfo.InvariantCulture) ?? "1/n"}",
        _plan.PredictorSteps * (double)(KvPredictionCost.Parameters(options) + KvPredictionCost.Parameters(_plan.BaseOptions))
            * PredictorSequences,
        () =>
        {
            torch.manual_seed(seed);
            CausalDecoder model = _checkpoints.Load("base", _plan.BaseOptions), reader = _checkpoints.Load(auxiliary, options);
            var predictor = new KvPredictor(_plan.BaseOptions, options, map);
            var prediction = new KvPrediction(model, reader, predictor);
            var batches = new TextBatches(_novels, 100 + seed);
            return new(
                new() { ["auxiliary"] = reader, ["predictor"] = predictor }, step =>
                {
                    Tensor ids = PredictorBatch(batches, step);
                    int length = (int)ids.shape[1] - 1;
                    // A prompt of an eighth to seven eighths of the sequence, by the step alone.
                    int prompt = length / 8 + new Random(unchecked(seed * 31 + step * 7_919)).Next(length * 3 / 4);
                    return prediction.Loss(ids, new() { CacheWeight = cacheWeight, PromptLength = split ? prompt : null }).Total;
                },
                () => prediction.Loss(
                    HeldOutBatchAndRecall(), new() { CacheWeight = cacheWeight, PromptLength = split ? HeldOutPrompt : null }).Total,
                [predictor, reader, model]);
        });

    private void Train(Piece piece, Action<double> report, CancellationToken cancellation)
    {
        string folder = Path.Combine(_work, piece.Name);
        using Parts parts = piece.Create();
        using var job = new TrainingJob(
            folder, parts.Trained, piece.Steps, piece.Rate, $"{piece.Settings}, text {TextBatches.Hash(_novels)}");
        double mean = double.NaN;
        job.Run(parts.Loss, parts.HeldOut, (step, loss) =>
        {
            mean = double.IsNaN(mean) ? loss : 0.98 * mean + 0.02 * loss;
            report((double)step / piece.Steps);
            if (step % TrainingJob.EvaluateEvery != 1 || step == 1) return;
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{piece.Name}: step {step:N0} of {piece.Steps:N0}, loss {mean:f3}, held out {job.HeldOut[^1]:f3}"));
        }, cancellation);
        _checkpoints.Write(
            piece.Name, parts.Trained,
            new Dictionary<string, string>
            {
                ["recipe"] = $"models kvp --train, piece {piece.Name}",
                ["settings"] = string.Create(CultureInfo.InvariantCulture, $"{piece.Settings}, {piece.Steps} steps, rate {piece.Rate}"),
                ["text"] = $"{_novels.Source}, SHA-256 {TextBatches.Hash(_novels)}",
                ["done"] = string.Create(CultureInfo.InvariantCulture, $"{job.Done} of {piece.Steps} steps"),
                ["held-out"] = TrainingJob.Invariant(job.HeldOut),
            });
        job.Delete();
    }

    private CausalDecoder FromBase(DecoderOptions options)
    {
        var pruned = new CausalDecoder(options);
        using CausalDecoder whole = _checkpoints.Load("base", _plan.BaseOptions);
        using var noGrad = torch.no_grad();
        Dictionary<string, TorchSharp.Modules.Parameter> from =
            whole.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter);
        foreach ((string name, TorchSharp.Modules.Parameter parameter) in pruned.named_parameters())
        {
            string[] path = name.Split('.');
            if (path[0] == "layers")
                path[1] = _plan.Kept[int.Parse(path[1], CultureInfo.InvariantCulture)].ToString(CultureInfo.InvariantCulture);
            parameter.copy_(from[string.Join('.', path)]);
        }

        return pruned;
    }

    private static Tensor LanguageBatch(TextBatches batches, int step, double progress) => step % LongEvery == LongEvery - 1
        ? batches.Batch(step, LongSequences, LongLength, TextBatches.Pairs(progress))
        : batches.Batch(step, ShortSequences, ShortLength, TextBatches.Pairs(progress));

    // A step of text as before, a step of long recall, two of short.
    private static Tensor RecallBatch(TextBatches batches, int step, double progress) => (step % 4) switch
    {
        0 => batches.Batch(step, ShortSequences, ShortLength, TextBatches.MostPairs),
        1 => batches.Batch(step, LongSequences, LongLength, TextBatches.Pairs(progress), recallEvery: 1),
        _ => batches.Batch(step, RecallSequences, RecallLength, TextBatches.Pairs(progress), recallEvery: 1),
    };

    private static Tensor PredictorBatch(TextBatches batches, int step) => step % PredictorLongEvery == PredictorLongEvery - 1
        ? batches.Batch(step, 1, LongLength, TextBatches.MostPairs, PredictorRecallEvery)
        : batches.Batch(step, PredictorSequences, PredictorLength, TextBatches.MostPairs, PredictorRecallEvery);

    private Tensor HeldOutBatch() => TextBatches.Even(_novels.HeldOut, HeldOutSequences, ShortLength);

    // By text alone a model that learns to recall would seem to learn nothing.
    private Tensor HeldOutBatchAndRecall() => torch.cat(
    [
        HeldOutBatch(),
        new TextBatches(_novels, HeldOutSeed).Batch(0, HeldOutSequences, ShortLength, TextBatches.MostPairs, recallEvery: 1),
    ]);

    private static Tensor NextToken(CausalDecoder model, Tensor ids)
    {
        long length = ids.shape[1] - 1;
        Tensor logits = model.forward(ids.narrow(1, 0, length));
        return torch.nn.functional.cross_entropy(logits.view(-1, TextBatches.Vocabulary), ids.narrow(1, 1, length).reshape(-1));
    }

    /// <summary>One training.</summary>
    /// <param name="Name">Of its checkpoint.</param>
    /// <param name="Steps">How many steps.</param>
    /// <param name="Rate">The highest learning rate.</param>
    /// <param name="Settings">What else it depends on.</param>
    /// <param name="Work">Its share of the time, in any unit.</param>
    /// <param name="Create">Makes what is trained.</param>
    private sealed record Piece(string Name, int Steps, double Rate, string Settings, double Work, Func<Parts> Create);

    private sealed record Parts(
        Dictionary<string, torch.nn.Module> Trained, Func<int, Tensor> Loss, Func<Tensor> HeldOut, IReadOnlyList<IDisposable> Owned)
        : IDisposable
    {
        public void Dispose()
        {
            foreach (IDisposable owned in Owned) owned.Dispose();
        }
    }
}
