using AuxCore.Bench.Data;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Bench.Workloads;

/// <summary>One of the ways to read a prompt that the KV-prediction experiment compares.</summary>
/// <param name="Name">What tables call it.</param>
/// <param name="IsControl">Whether the others are held against it.</param>
/// <param name="Variants">One a seed of its training; one alone where nothing depends on a seed.</param>
internal sealed record KvpArm(string Name, bool IsControl, IReadOnlyList<KvpVariant> Variants);

/// <summary>One training of an arm.</summary>
/// <param name="Seed">Of the training; null where there is but one.</param>
/// <param name="Checkpoints">The trainings that it stands on.</param>
/// <param name="Create">Makes it; the models that arms share are not its own.</param>
internal sealed record KvpVariant(int? Seed, IReadOnlyList<string> Checkpoints, Func<KvpSystem> Create);

/// <summary>
/// The arms of the KV-prediction experiment, as far as their checkpoints are there. Base, auxiliary model and one training of the predictor
/// have to be.
/// </summary>
internal sealed class KvpArms : IDisposable
{
    public const string Base = "base", LastByte = "base, the last byte only", Truncated = "base, fewer bytes for equal work",
        Auxiliary = "auxiliary alone", Continued = "auxiliary, trained on", Pruned = "layer-pruned base", Split = "KV prediction",
        Published = "KV prediction, trained as published", NoCacheLoss = "KV prediction, no cache loss",
        PrunedSplit = "KV prediction, layer-pruned", Untrained = "KV prediction, untrained", Q8 = "base, q8_0 cache",
        Q4 = "base, q4_0 cache", SnapKv = "base, SnapKV keeps 1/4", KeyDiff = "base, KeyDiff keeps 1/4",
        StreamingLlm = "base, StreamingLLM keeps 1/4";

    // Prompts are short, so the window is: it must fit into a quarter of the shortest.
    private const int Window = 16;
    private const double Kept = 0.25;

    private readonly KvpCheckpoints _checkpoints;
    private readonly KvpPlan _plan;
    private readonly CausalDecoder _base, _auxiliary;
    private readonly CausalDecoder? _pruned;
    private readonly List<string> _missing = [];

    /// <param name="checkpoints">The trainings.</param>
    /// <param name="plan">Their sizes.</param>
    /// <param name="seeds">Whose predictors are looked for.</param>
    /// <exception cref="StateFileException">What has to be there is not, or a file is damaged or of other sizes.</exception>
    public KvpArms(KvpCheckpoints checkpoints, KvpPlan plan, IReadOnlyList<int> seeds)
    {
        (_checkpoints, _plan) = (checkpoints, plan);
        checkpoints.Require("base");
        checkpoints.Require("auxiliary");
        if (!seeds.Any(seed => checkpoints.Has($"split-{seed}"))) checkpoints.Require($"split-{seeds[0]}");
        _base = checkpoints.Load("base", plan.BaseOptions);
        _auxiliary = checkpoints.Load("auxiliary", plan.AuxiliaryOptions);
        if (checkpoints.Has("pruned")) _pruned = checkpoints.Load("pruned", plan.PrunedOptions);
        All = [.. Create(seeds).Where(arm => arm.Variants.Count > 0)];
    }

    /// <summary>The arms that there are.</summary>
    public IReadOnlyList<KvpArm> All { get; }

    /// <summary>The trainings that are not there.</summary>
    public IReadOnlyList<string> Missing => _missing;

    /// <summary>What tells the state of the trainings that a variant stands on.</summary>
    public string Hash(KvpVariant variant) =>
        string.Join(' ', variant.Checkpoints.Select(name => Sha256File.Of(_checkpoints.PathOf(name))[..12]));

    /// <inheritdoc/>
    public void Dispose()
    {
        _base.Dispose();
        _auxiliary.Dispose();
        _pruned?.Dispose();
    }

    /// <summary>The most tokens that the base reads with no more operations than prediction has for a prompt of so many.</summary>
    public static int EqualWork(KvPredictor predictor, DecoderOptions baseOptions, int prompt)
    {
        double allowed = KvPredictionCost.PredictionOperations(predictor, prompt);
        int tokens = 1;
        while (tokens < prompt && KvPredictionCost.PrefillOperations(baseOptions, tokens + 1) <= allowed) tokens++;
        return tokens;
    }

    private IEnumerable<KvpArm> Create(IReadOnlyList<int> seeds)
    {
        string[] both = ["base", "auxiliary"];
        yield return One(Base, true, ["base"], () => new() { Generator = _base });
        yield return One(LastByte, true, ["base"], () => new() { Generator = _base, Reads = _ => 1 });
        yield return One(Truncated, true, both, () =>
        {
            var predictor = new KvPredictor(_plan.BaseOptions, _plan.AuxiliaryOptions);
            return new() { Generator = _base, Reads = prompt => EqualWork(predictor, _plan.BaseOptions, prompt), Owned = [predictor] };
        });
        yield return One(Auxiliary, true, ["auxiliary"], () => new() { Generator = _auxiliary });
        yield return Seeded(Continued, true, "continued", seeds, [], Alone);
        yield return new(Pruned, true, _pruned is null ? [] : [new(null, ["pruned"], () => new() { Generator = _pruned })]);
        if (_pruned is null) _missing.Add("pruned");
        yield return Seeded(Split, false, "split", seeds, ["base"], Sibling);
        yield return Seeded(Published, false, "published", seeds, ["base"], Sibling);
        yield return Seeded(NoCacheLoss, false, "no-cache-loss", seeds, ["base"], Sibling);
        yield return Seeded(
            PrunedSplit, false, "pruned-split", seeds, ["base"], name => Predicted(name, _plan.PrunedOptions, _plan.PrunedMap));
        yield return One(Untrained, true, both, () =>
        {
            torch.manual_seed(1);
            var predictor = new KvPredictor(_plan.BaseOptions, _plan.AuxiliaryOptions);
            return new() { Generator = _base, Prediction = new(_base, _auxiliary, predictor), Owned = [predictor] };
        });
        yield return One(Q8, false, ["base"], () => new() { Generator = _base, Format = KvFormat.Q8_0 });
        yield return One(Q4, false, ["base"], () => new() { Generator = _base, Format = KvFormat.Q4_0 });
        yield return One(SnapKv, false, ["base"], () => Evicting(new SnapKv(Window)));
        yield return One(KeyDiff, false, ["base"], () => Evicting(new KeyDiff()));
        yield return One(StreamingLlm, false, ["base"], () => Evicting(new StreamingLlm()));
    }

    private KvpSystem Evicting(IKvScorer scorer) => new() { Generator = _base, Scorer = scorer, Keep = Kept };

    private KvpSystem Alone(string name)
    {
        CausalDecoder model = _checkpoints.Load(name, _plan.AuxiliaryOptions);
        return new() { Generator = model, Owned = [model] };
    }

    private KvpSystem Sibling(string name) => Predicted(name, _plan.AuxiliaryOptions, null);

    private KvpSystem Predicted(string name, DecoderOptions options, IReadOnlyList<int>? map)
    {
        var reader = new CausalDecoder(options);
        var predictor = new KvPredictor(_plan.BaseOptions, options, map);
        _checkpoints.Read(name, new() { ["auxiliary"] = reader, ["predictor"] = predictor });
        return new() { Generator = _base, Prediction = new(_base, reader, predictor), Owned = [predictor, reader] };
    }

    private static KvpArm One(string name, bool isControl, IReadOnlyList<string> checkpoints, Func<KvpSystem> create) =>
        new(name, isControl, [new(null, checkpoints, create)]);

    private KvpArm Seeded(
        string name, bool isControl, string training, IReadOnlyList<int> seeds, IReadOnlyList<string> others,
        Func<string, KvpSystem> create)
    {
        _missing.AddRange(seeds.Select(NameOf).Where(file => !_checkpoints.Has(file)));
        return new(name, isControl,
            [.. seeds.Where(seed => _checkpoints.Has(NameOf(seed))).Select(seed => new KvpVariant(
                seed, [.. others, NameOf(seed)], () => create(NameOf(seed))))]);

        string NameOf(int seed) => $"{training}-{seed}";
    }
}
