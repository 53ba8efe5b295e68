using System.Diagnostics;
using System.Globalization;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Kernels;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Tours;

/// <summary>A short generation by a decoder of random weights: what caches take, and how far their logits are from exact ones.</summary>
internal static class KvGeneration
{
    private const int Vocabulary = 512, Width = 256, Layers = 4, QueryHeads = 8, KvHeads = 2, HeadDim = 64, Inner = 512;
    private const int Prompt = 1024, Steps = 16, Budget = 256, Window = 32, Seed = 1;

    public static string What { get; } = string.Create(CultureInfo.InvariantCulture,
        $"A decoder of random weights, {Layers} layers, reads {Prompt:N0} tokens and {Steps} more: it shows memory, not quality.");

    public static IReadOnlyList<KvGenerationOutcome> Run(CancellationToken cancellation)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(Seed);
        using var model = new CausalDecoder(DecoderOptions.Uniform(Vocabulary, Width, Layers, QueryHeads, KvHeads, Inner, HeadDim) with
        {
            InitialDeviation = 0.06,
        });
        Tensor ids = torch.randint(0, Vocabulary, [1, Prompt + Steps], torch.int64);
        using Tensor exact = Logits(model, ids, KvFormat.F32, null, cancellation).Logits;
        var outcomes = new List<KvGenerationOutcome>();
        foreach ((string name, KvFormat format, IKvScorer? scorer) in ((string, KvFormat, IKvScorer?)[])
        [
            ("F32", KvFormat.F32, null), ("Q8_0", KvFormat.Q8_0, null),
            ($"Q8_0, SnapKv, {Budget} tokens", KvFormat.Q8_0, new SnapKv(Window)),
            ($"Q8_0, AdaKv(SnapKv), {Budget} tokens", KvFormat.Q8_0, new AdaKv(new SnapKv(Window))),
            ($"Q8_0, StreamingLlm, {Budget} tokens", KvFormat.Q8_0, new StreamingLlm()),
        ])
        {
            var (logits, bytes, microseconds) = Logits(model, ids, format, scorer, cancellation);
            using (logits)
            {
                using Tensor error = (logits - exact).abs().max() / exact.abs().max();
                outcomes.Add(new(name, bytes, error.item<float>(), microseconds));
            }
        }

        return outcomes;
    }

    /// <summary>The logits after each step [steps, V], the bytes that the cache holds, and the median time of a step.</summary>
    private static (Tensor Logits, long Bytes, double Microseconds) Logits(
        CausalDecoder model, Tensor ids, KvFormat format, IKvScorer? scorer, CancellationToken cancellation)
    {
        using var scope = torch.NewDisposeScope();
        using var pool = new KvPagePool(2 * Layers * KvHeads * (Prompt + Steps) / 16, HeadDim, format, format);
        using var cache = model.CreateCache(pool, Prompt + Steps);
        using var compression = scorer is null ? null : model.CompressKv(scorer, KvBudget.Tokens(Budget));
        model.Prefill(ids.narrow(1, 0, Prompt), cache);
        long bytes = cache.BytesReserved;
        var logits = new Tensor[Steps];
        var times = new double[Steps];
        for (int step = 0; step < Steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            long start = Stopwatch.GetTimestamp();
            logits[step] = model.Decode(ids.select(1, Prompt + step), cache);
            times[step] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
        }

        return (torch.cat(logits, 0).MoveToOuterDisposeScope(), bytes, Quartiles.Of(times).Median);
    }

    /// <summary>A line of the console.</summary>
    public static string Line(KvGenerationOutcome outcome) => string.Create(CultureInfo.InvariantCulture,
        $"  {outcome.Cache,-35} {outcome.Bytes,9:N0} bytes, error {Format.Error(outcome.Error),7}, ")
        + $"{Format.Time(outcome.Microseconds)} a token";
}

/// <summary>What a cache took.</summary>
/// <param name="Cache">Its format, and how it was compressed.</param>
/// <param name="Bytes">Of the pages that it held after the prompt.</param>
/// <param name="Error">Of the logits: the largest, over the greatest logit.</param>
/// <param name="Microseconds">Of a step.</param>
internal sealed record KvGenerationOutcome(string Cache, long Bytes, double Error, double Microseconds);
