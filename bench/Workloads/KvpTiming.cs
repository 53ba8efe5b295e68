using AuxCore.Bench.Measurement;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>What reading a prompt and going on takes.</summary>
/// <param name="Prompt">Tokens of a prompt.</param>
/// <param name="Batch">How many prompts.</param>
/// <param name="First">Milliseconds to the logits of the first token: median.</param>
/// <param name="OfBase">First, over the base's in the same round: median.</param>
/// <param name="Next">Milliseconds of each token behind it, over all prompts together: median.</param>
internal sealed record KvpTime(int Prompt, int Batch, double First, double OfBase, double Next);

/// <summary>Times systems against each other, in shuffled rounds.</summary>
internal static class KvpTiming
{
    private const int Tokens = 8, Seed = 1;

    /// <summary>One prompt length and batch.</summary>
    /// <param name="systems">What is timed; the first is the base.</param>
    /// <param name="samples">Where prompts come from.</param>
    /// <param name="prompt">Tokens of a prompt.</param>
    /// <param name="batch">How many prompts.</param>
    /// <param name="rounds">How often.</param>
    /// <param name="threads">With one, times are those of the thread's processor.</param>
    /// <param name="cancellation">Ends it.</param>
    public static KvpTime[] Run(
        IReadOnlyList<KvpSystem> systems, KvpSamples samples, int prompt, int batch, int rounds, int threads,
        CancellationToken cancellation)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        Func<long> clock = threads == 1 ? ThreadClock.Nanoseconds : ThreadClock.WallNanoseconds;
        Tensor ids = samples.Prompts(0, Math.Min(batch, samples.Excerpts), prompt).narrow(1, 0, prompt);
        if (ids.shape[0] < batch) ids = ids.repeat(batch / ids.shape[0] + 1, 1).narrow(0, 0, batch).contiguous();
        double[][] first = [.. systems.Select(_ => new double[rounds])], next = [.. systems.Select(_ => new double[rounds])];
        int[] order = [.. Enumerable.Range(0, systems.Count)];
        var random = new Random(Seed);
        for (int round = -1; round < rounds; round++)
        {
            random.Shuffle(order);
            foreach (int i in order)
            {
                cancellation.ThrowIfCancellationRequested();
                var (start, more) = Once(systems[i]);
                if (round >= 0) (first[i][round], next[i][round]) = (start, more);
            }
        }

        return
        [
            .. systems.Select((_, i) => new KvpTime(
                prompt, batch, Quartiles.Of(first[i]).Median, Quartiles.Of([.. first[i].Zip(first[0], (own, whole) => own / whole)]).Median,
                Quartiles.Of(next[i]).Median)),
        ];

        (double First, double Next) Once(KvpSystem system)
        {
            using var inner = torch.NewDisposeScope();
            using KvCache cache = system.CreateCache(prompt, Tokens, batch);
            long start = clock();
            Tensor token = system.Prefill(ids, cache).argmax(1);
            long read = clock();
            for (int i = 0; i < Tokens; i++) token = system.Generator.Decode(token, cache).argmax(1);
            return (1e-6 * (read - start), 1e-6 * (clock() - read) / Tokens);
        }
    }

    /// <summary>Bytes that reading prompts takes at its peak, cache included, weights not; null where that cannot be measured.</summary>
    public static double? PeakBytes(KvpSystem system, KvpSamples samples, int prompt, int batch)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        Tensor ids = samples.Prompts(0, batch, prompt).narrow(1, 0, prompt);
        return PeakMemory.Of(() =>
        {
            using var inner = torch.NewDisposeScope();
            using KvCache cache = system.CreateCache(prompt, Tokens, batch);
            system.Prefill(ids, cache);
        });
    }
}

/// <summary>Times to the first token of models whose weights are random: sizes alone matter.</summary>
/// <param name="Base">Milliseconds of the base.</param>
/// <param name="Auxiliary">Milliseconds of the auxiliary model by itself, round by round.</param>
/// <param name="Prediction">Milliseconds of KV Prediction, round by round.</param>
internal sealed record KvpLargeTimes(double Base, IReadOnlyList<double> Auxiliary, IReadOnlyList<double> Prediction)
{
    /// <summary>What prediction takes over the auxiliary model by itself.</summary>
    public Quartiles Ratio => Quartiles.Of([.. Prediction.Zip(Auxiliary, (ours, alone) => ours / alone)]);

    /// <summary>Reads one prompt, the base once and the others in turn.</summary>
    public static KvpLargeTimes Measure(
        DecoderOptions baseOptions, DecoderOptions auxiliaryOptions, int prompt, int rounds, int threads, CancellationToken cancellation)
    {
        using var noGrad = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(1);
        using var whole = new CausalDecoder(baseOptions);
        using var small = new CausalDecoder(auxiliaryOptions);
        using var predictor = new KvPredictor(baseOptions, auxiliaryOptions);
        var prediction = new KvPrediction(whole, small, predictor);
        Func<long> clock = threads == 1 ? ThreadClock.Nanoseconds : ThreadClock.WallNanoseconds;
        Tensor ids = torch.randint(0, baseOptions.Vocabulary, [1, prompt], torch.int64);
        // Both once with a short prompt, so that neither pays for what is done once.
        Tensor few = ids.narrow(1, 0, Math.Min(prompt, 16));
        Time(few, small, small.Prefill);
        Time(few, whole, prediction.Prefill);
        var (alone, ours) = (new double[rounds], new double[rounds]);
        for (int round = 0; round < rounds; round++)
        {
            for (int turn = 0; turn < 2; turn++)
            {
                if ((round + turn) % 2 == 0) alone[round] = Time(ids, small, small.Prefill);
                else ours[round] = Time(ids, whole, prediction.Prefill);
            }
        }

        return new(Time(ids, whole, whole.Prefill), alone, ours);

        double Time(Tensor tokens, CausalDecoder generator, Func<Tensor, KvCache, IReadOnlyList<int>?, Tensor> prefill)
        {
            cancellation.ThrowIfCancellationRequested();
            using var inner = torch.NewDisposeScope();
            using KvCache cache = generator.CreateCache((int)tokens.shape[1] + 1);
            long start = clock();
            prefill(tokens, cache, null).argmax(1);
            return 1e-6 * (clock() - start);
        }
    }
}
