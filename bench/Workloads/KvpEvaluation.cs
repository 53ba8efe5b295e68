using System.Globalization;
using System.Text;
using AuxCore.Bench.Output;
using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// What the arms of the KV-prediction experiment are measured on: prompts of a text that none has learnt from with the bytes that follow,
/// the same bytes for all lengths of prompt; and prompts that ask for a pair told at their beginning.
/// </summary>
/// <param name="Text">The held-out text.</param>
/// <param name="Lengths">Of prompts, ascending.</param>
/// <param name="Excerpts">How many places of the text.</param>
/// <param name="Questions">How many questions of each length.</param>
internal sealed record KvpSamples(byte[] Text, IReadOnlyList<int> Lengths, int Excerpts, int Questions)
{
    /// <summary>Bytes behind a prompt that are predicted.</summary>
    public const int Continuation = 128;

    /// <summary>How many prompts are read together.</summary>
    public const int Batch = 32;

    /// <summary>Where parts of the continuation begin and end.</summary>
    public static IReadOnlyList<(int Begin, int End)> Spans { get; } = [(0, 8), (8, 32), (32, Continuation)];

    /// <summary>A part of the continuation in words.</summary>
    public static string NameOf(int span) => $"bytes {Spans[span].Begin + 1}–{Spans[span].End}";

    /// <summary>int64 [count, length + continuation]: prompts of text and what follows them.</summary>
    public Tensor Prompts(int first, int count, int length)
    {
        int longest = Lengths[^1], room = Text.Length - longest - Continuation;
        return Bytes(count, Enumerable.Range(first, count).Select(i =>
        {
            int begin = longest + (int)((long)i * room / Excerpts) - length;
            return (ReadOnlyMemory<byte>)Text.AsMemory(begin, length + Continuation);
        }));
    }

    /// <summary>int64 [count, length]: prompts that end in a question; and the bytes that answer each.</summary>
    public (Tensor Prompts, byte[][] Answers) Recall(int first, int count, int length)
    {
        var answers = new byte[count][];
        Tensor prompts = Bytes(count, Enumerable.Range(0, count).Select(i =>
        {
            byte[] prompt = new byte[length];
            answers[i] = TextBatches.RecallPrompt(
                new Random(unchecked(length * 1_000_003 + first + i)), Text, prompt, TextBatches.MostPairs);
            return (ReadOnlyMemory<byte>)prompt;
        }));
        return (prompts, answers);
    }

    /// <summary>The bytes of a line as a number, in which a journal can keep them.</summary>
    public static int Code(ReadOnlySpan<byte> value) => value[0] << 8 | value[1];

    /// <summary>The answers of all questions of one length, as <see cref="Code"/>.</summary>
    public int[] Right(int length)
    {
        using var scope = torch.NewDisposeScope();
        return [.. Recall(0, Questions, length).Answers.Select(answer => Code(answer))];
    }

    /// <summary>All questions with the answers that a system gave, as kvpress has them.</summary>
    public IEnumerable<KvPressRow> PressRows(KvpFigures figures)
    {
        const int Question = 2;
        for (int l = 0; l < Lengths.Count; l++)
        {
            using var scope = torch.NewDisposeScope();
            (Tensor prompts, byte[][] answers) = Recall(0, Questions, Lengths[l]);
            byte[] read = [.. prompts.data<long>().ToArray().Select(value => (byte)value)];
            for (int i = 0; i < Questions; i++)
            {
                ReadOnlySpan<byte> prompt = read.AsSpan(i * Lengths[l], Lengths[l]);
                int given = figures.Answers[l][i];
                yield return new(
                    Encoding.ASCII.GetString(prompt[..^Question]), Encoding.ASCII.GetString(prompt[^Question..]),
                    Encoding.ASCII.GetString(answers[i]), Encoding.Latin1.GetString([(byte)(given >> 8), (byte)given]),
                    TextBatches.ValueBytes, string.Create(CultureInfo.InvariantCulture, $"recall-{Lengths[l]}"));
            }
        }
    }

    private static Tensor Bytes(int count, IEnumerable<ReadOnlyMemory<byte>> rows) =>
        torch.tensor(rows.SelectMany(row => row.ToArray()).Select(value => (long)value).ToArray()).view(count, -1);
}

/// <summary>What one system gave, prompt length by prompt length.</summary>
/// <param name="Loss">Nats a byte of each of <see cref="KvpSamples.Spans"/>.</param>
/// <param name="CacheBytes">Of one sequence behind the prompt.</param>
/// <param name="Answers">What it answered to each question, as <see cref="KvpSamples.Code"/>.</param>
internal sealed record KvpFigures(double[][] Loss, double[] CacheBytes, int[][] Answers)
{
    /// <summary>The share of questions that were answered exactly.</summary>
    public double Recall(KvpSamples samples, int length) =>
        Answers[length].Zip(samples.Right(samples.Lengths[length])).Average(pair => pair.First == pair.Second ? 1.0 : 0);

    /// <summary>All figures in a row, for a journal.</summary>
    public double[] Pack() =>
    [
        .. Loss.SelectMany(spans => spans), .. CacheBytes, .. Answers.SelectMany(answers => answers.Select(answer => (double)answer)),
    ];

    /// <summary>Figures out of such a row.</summary>
    public static KvpFigures Unpack(double[] packed, KvpSamples samples)
    {
        int lengths = samples.Lengths.Count, spans = KvpSamples.Spans.Count, head = lengths * (spans + 1);
        return new(
            [.. packed.Take(lengths * spans).Chunk(spans)], packed[(lengths * spans)..head],
            [.. packed.Skip(head).Select(answer => (int)answer).Chunk(samples.Questions)]);
    }
}

/// <summary>Measures a system on samples.</summary>
internal static class KvpEvaluation
{
    /// <summary>
    /// Reads prompts, then the bytes that follow them one by one, as generation would, and sums how unlikely each was held; then answers
    /// questions greedily.
    /// </summary>
    public static KvpFigures Run(KvpSystem system, KvpSamples samples, CancellationToken cancellation)
    {
        using var noGrad = torch.no_grad();
        var (loss, bytes, answers) = (new List<double[]>(), new List<double>(), new List<int[]>());
        foreach (int length in samples.Lengths)
        {
            double[] nats = new double[KvpSamples.Spans.Count];
            double used = 0;
            foreach ((int first, int count) in Batches(samples.Excerpts))
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = torch.NewDisposeScope();
                used = Continue(system, samples.Prompts(first, count, length), length, nats);
            }

            loss.Add([.. nats.Select((sum, i) => sum / samples.Excerpts / (KvpSamples.Spans[i].End - KvpSamples.Spans[i].Begin))]);
            bytes.Add(used);
            var given = new List<int>();
            foreach ((int first, int count) in Batches(samples.Questions))
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = torch.NewDisposeScope();
                given.AddRange(Answer(system, samples.Recall(first, count, length).Prompts));
            }

            answers.Add([.. given]);
        }

        return new([.. loss], [.. bytes], [.. answers]);
    }

    /// <summary>Adds the nats of each span; returns the bytes that the cache of a sequence takes behind the prompt.</summary>
    private static double Continue(KvpSystem system, Tensor ids, int length, double[] nats)
    {
        int count = (int)ids.shape[0];
        using KvCache cache = system.CreateCache(length, KvpSamples.Continuation, count);
        Tensor logits = system.Prefill(ids.narrow(1, 0, length), cache);
        double bytes = (double)cache.BytesUsed / count;
        for (int step = 0; step < KvpSamples.Continuation; step++)
        {
            using var scope = torch.NewDisposeScope();
            Tensor target = ids.select(1, length + step);
            double sum = torch.nn.functional.cross_entropy(logits, target, reduction: torch.nn.Reduction.Sum).item<float>();
            nats[SpanOf(step)] += sum;
            if (step + 1 == KvpSamples.Continuation) break;
            logits.Dispose();
            logits = system.Generator.Decode(target, cache).MoveToOuterDisposeScope();
        }

        return bytes;
    }

    private static IEnumerable<int> Answer(KvpSystem system, Tensor prompts)
    {
        using KvCache cache = system.CreateCache((int)prompts.shape[1], TextBatches.ValueBytes, (int)prompts.shape[0]);
        Tensor first = system.Prefill(prompts, cache).argmax(1);
        Tensor second = system.Generator.Decode(first, cache).argmax(1);
        return first.data<long>().ToArray().Zip(second.data<long>().ToArray(), (a, b) => KvpSamples.Code([(byte)a, (byte)b]));
    }

    private static int SpanOf(int step)
    {
        int span = 0;
        while (step >= KvpSamples.Spans[span].End) span++;
        return span;
    }

    private static IEnumerable<(int First, int Count)> Batches(int all)
    {
        for (int first = 0; first < all; first += KvpSamples.Batch)
            yield return (first, Math.Min(KvpSamples.Batch, all - first));
    }
}
