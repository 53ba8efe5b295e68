using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>One way to read a prompt into the cache of the model that then goes on.</summary>
internal sealed class KvpSystem : IDisposable
{
    /// <summary>The model that goes on.</summary>
    public required CausalDecoder Generator { get; init; }

    /// <summary>What reads the prompt in its place; it reads by itself without.</summary>
    public KvPrediction? Prediction { get; init; }

    /// <summary>How its cache is stored.</summary>
    public KvFormat Format { get; init; } = KvFormat.F32;

    /// <summary>Which tokens stay in the cache behind the prompt; all without.</summary>
    public IKvScorer? Scorer { get; init; }

    /// <summary>The share of tokens that <see cref="Scorer"/> keeps.</summary>
    public double Keep { get; init; } = 1;

    /// <summary>How many tokens it reads of a prompt of so many: the last ones.</summary>
    public Func<int, int> Reads { get; init; } = prompt => prompt;

    /// <summary>What ends with it.</summary>
    public IReadOnlyList<IDisposable> Owned { get; init; } = [];

    /// <summary>The floating-point operations of reading a prompt for the logits behind it.</summary>
    public double Operations(int prompt) => Prediction is null
        ? KvPredictionCost.PrefillOperations(Generator.Options, Reads(prompt))
        : KvPredictionCost.PredictionOperations(Prediction.Predictor, Reads(prompt));

    /// <summary>An empty cache for prompts and what follows them.</summary>
    /// <param name="prompt">Tokens of a prompt.</param>
    /// <param name="more">Tokens behind it.</param>
    /// <param name="batch">How many sequences.</param>
    public KvCache CreateCache(int prompt, int more, int batch) => Generator.CreateCache(Reads(prompt) + more, Format, batch);

    /// <summary>Reads prompts.</summary>
    /// <param name="prompts">int64 [B, L].</param>
    /// <param name="cache">An empty one.</param>
    /// <returns>float32 [B, V]: the logits of what follows.</returns>
    public Tensor Prefill(Tensor prompts, KvCache cache)
    {
        using var scope = torch.NewDisposeScope();
        int length = (int)prompts.shape[1], read = Reads(length);
        Tensor seen = prompts.narrow(1, length - read, read);
        using KvCompression? compression = Scorer is null
            ? null
            : Generator.CompressKv(Scorer, KvBudget.Ratio(Keep), new() { DecodeInterval = 0 });
        Tensor logits = Prediction is null ? Generator.Prefill(seen, cache) : Prediction.Prefill(seen, cache);
        return logits.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IDisposable owned in Owned) owned.Dispose();
    }
}
