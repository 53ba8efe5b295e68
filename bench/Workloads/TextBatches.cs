using System.Security.Cryptography;
using AuxCore.Bench.Data;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// What the language models of the KV-prediction experiment read: bytes of real novels, and beside them a synthetic task, recall: pairs of
/// a capital letter and a value of two small letters are told first, and asked for later. A batch is a function of seed and step.
/// </summary>
internal sealed class TextBatches
{
    /// <summary>Tokens are bytes.</summary>
    public const int Vocabulary = 256;

    /// <summary>One in so many sequences is recall, where nothing else is said.</summary>
    public const int RecallEvery = 5;

    /// <summary>The most pairs that are told.</summary>
    public const int MostPairs = 12;

    /// <summary>Bytes of a pair, and of a question with its answer.</summary>
    public const int PairBytes = 4, QuestionBytes = 5, ValueBytes = 2;

    private readonly byte[] _text;
    private readonly int _seed;

    /// <param name="novels">What is read.</param>
    /// <param name="seed">Of the order.</param>
    public TextBatches(AustenNovels novels, int seed) => (_text, _seed) = (novels.Train, seed);

    /// <summary>Identifies the text that a model has learnt from.</summary>
    public static string Hash(AustenNovels novels) => Convert.ToHexStringLower(SHA256.HashData(novels.Train));

    /// <summary>How many pairs are told after so much of the training: two at first, all from a third on.</summary>
    public static int Pairs(double progress) => Math.Clamp(2 + (int)(progress * 3 * (MostPairs - 1)), 2, MostPairs);

    /// <summary>int64 [sequences, length + 1].</summary>
    /// <param name="step">Which step of the training.</param>
    /// <param name="sequences">How many sequences, the first of them recall wherever it is its turn.</param>
    /// <param name="length">Tokens that are read; each but the first is predicted as well, and one more.</param>
    /// <param name="pairs">The most pairs that are told.</param>
    /// <param name="recallEvery">One in so many sequences is recall; 1 for all.</param>
    public Tensor Batch(int step, int sequences, int length, int pairs, int recallEvery = RecallEvery)
    {
        long[] ids = new long[sequences * (length + 1)];
        byte[] sequence = new byte[length + 1];
        for (int s = 0; s < sequences; s++)
        {
            long turn = (long)step * sequences + s;
            var random = new Random(unchecked((int)(_seed * 1_000_003L + turn * 7_919)));
            if (turn % recallEvery == 0) Recall(random, sequence, random.Next(2, pairs + 1), random.Next(2) == 0);
            else Excerpt(random, _text, sequence);
            for (int t = 0; t <= length; t++) ids[s * (length + 1) + t] = sequence[t];
        }

        return torch.tensor(ids).view(sequences, length + 1);
    }

    /// <summary>int64 [sequences, length + 1]: text from places that are evenly apart.</summary>
    public static Tensor Even(byte[] text, int sequences, int length)
    {
        long[] ids =
        [
            .. Enumerable.Range(0, sequences)
                .SelectMany(s => text.Skip((int)((long)s * (text.Length - length - 1) / sequences)).Take(length + 1))
                .Select(value => (long)value),
        ];
        return torch.tensor(ids).view(sequences, length + 1);
    }

    /// <summary>Text from a random place.</summary>
    public static void Excerpt(Random random, byte[] text, Span<byte> sequence) =>
        text.AsSpan(random.Next(text.Length - sequence.Length), sequence.Length).CopyTo(sequence);

    /// <summary>
    /// A prompt that ends where a value is asked for: pairs, then text up to the length, then <c>?K</c>. Returns the value.
    /// </summary>
    public static byte[] RecallPrompt(Random random, byte[] text, Span<byte> prompt, int pairs)
    {
        (byte[] keys, byte[][] values) = Told(random, prompt, pairs);
        Excerpt(random, text, prompt[(pairs * PairBytes)..^2]);
        prompt[^3] = (byte)'\n';
        int asked = random.Next(pairs);
        prompt[^2] = (byte)'?';
        prompt[^1] = keys[asked];
        return values[asked];
    }

    /// <summary>Pairs, then perhaps text, then questions with their answers to the end.</summary>
    private void Recall(Random random, Span<byte> sequence, int pairs, bool withText)
    {
        (byte[] keys, byte[][] values) = Told(random, sequence, pairs);
        int at = pairs * PairBytes;
        if (withText)
        {
            int between = random.Next((sequence.Length - at) * 3 / 4);
            Excerpt(random, _text, sequence.Slice(at, between));
            at += between;
        }

        sequence[at++] = (byte)'\n';
        Span<byte> question = stackalloc byte[QuestionBytes];
        while (at < sequence.Length)
        {
            int asked = random.Next(pairs);
            question[0] = (byte)'?';
            question[1] = keys[asked];
            values[asked].CopyTo(question[2..]);
            question[4] = (byte)'\n';
            int fits = Math.Min(QuestionBytes, sequence.Length - at);
            question[..fits].CopyTo(sequence[at..]);
            at += fits;
        }
    }

    private static (byte[] Keys, byte[][] Values) Told(Random random, Span<byte> sequence, int pairs)
    {
        byte[] keys = [.. Enumerable.Range('A', 26).Select(letter => (byte)letter)];
        random.Shuffle(keys);
        byte[][] values =
            [.. Enumerable.Range(0, pairs).Select(_ => new[] { (byte)('a' + random.Next(26)), (byte)('a' + random.Next(26)) })];
        for (int p = 0; p < pairs; p++)
        {
            Span<byte> pair = sequence.Slice(p * PairBytes, PairBytes);
            pair[0] = keys[p];
            values[p].CopyTo(pair[1..]);
            pair[3] = (byte)' ';
        }

        return (keys, values);
    }
}
