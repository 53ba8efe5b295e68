using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The sequences of a batch: how long each is, and which of its tokens are visual. Sequences of different lengths are padded at the end.
/// Immutable.
/// </summary>
public sealed class SequenceLayout
{
    private readonly int[] _segments, _visualSegments;
    private readonly bool[] _visual;

    private SequenceLayout(int[] segments, bool[] visual)
    {
        (_segments, _visual) = (segments, visual);
        _visualSegments = new int[segments.Length];
        for (var b = 0; b < Batch; b++)
        {
            var count = 0;
            for (var token = segments[b]; token < segments[b + 1]; token++)
                count += visual[token] ? 1 : 0;
            _visualSegments[b + 1] = _visualSegments[b] + count;
            Longest = Math.Max(Longest, Length(b));
        }
    }

    /// <summary>Sequences by what each token is.</summary>
    /// <param name="visual">For each sequence and token, whether it is of an image.</param>
    /// <exception cref="ArgumentException">There is no sequence, or one has no token.</exception>
    public static SequenceLayout Of(IReadOnlyList<IReadOnlyList<bool>> visual)
    {
        ArgumentNullException.ThrowIfNull(visual);
        if (visual.Count == 0)
            throw new ArgumentException("visual: there is no sequence", nameof(visual));
        var segments = new int[visual.Count + 1];
        for (var b = 0; b < visual.Count; b++)
        {
            ArgumentNullException.ThrowIfNull(visual[b], $"visual[{b}]");
            if (visual[b].Count == 0)
                throw new ArgumentException($"visual[{b}]: the sequence has no token", nameof(visual));
            segments[b + 1] = segments[b] + visual[b].Count;
        }

        return new(segments, [.. visual.SelectMany(sequence => sequence)]);
    }

    /// <summary>Sequences that are all alike.</summary>
    /// <param name="batch">How many, at least 1.</param>
    /// <param name="length">Tokens of each, at least 1.</param>
    /// <param name="visual">Which of them are of an image.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is below 1, or the range is not within the length.</exception>
    public static SequenceLayout Uniform(int batch, int length, Range visual)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batch, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 1);
        var (from, count) = visual.GetOffsetAndLength(length);
        bool[] sequence = [.. Enumerable.Range(0, length).Select(token => token >= from && token < from + count)];
        return Of([.. Enumerable.Repeat(sequence, batch)]);
    }

    /// <summary>How many sequences there are.</summary>
    public int Batch => _segments.Length - 1;

    /// <summary>Tokens of all sequences together.</summary>
    public int Tokens => _segments[^1];

    /// <summary>Visual tokens of all sequences together.</summary>
    public int VisualTokens => _visualSegments[^1];

    /// <summary>Tokens of the longest sequence: what the others are padded to.</summary>
    public int Longest { get; }

    /// <summary>[B + 1]: where each sequence begins among the tokens of all, and the end.</summary>
    public ReadOnlySpan<int> Segments => _segments;

    /// <summary>[B + 1]: where the visual tokens of each sequence begin among those of all, and the end.</summary>
    public ReadOnlySpan<int> VisualSegments => _visualSegments;

    /// <summary>Tokens of a sequence.</summary>
    public int Length(int sequence) => _segments[sequence + 1] - _segments[sequence];

    /// <summary>Which tokens of a sequence are visual.</summary>
    public ReadOnlySpan<bool> Visual(int sequence) => _visual.AsSpan(_segments[sequence], Length(sequence));

    /// <summary>Visual tokens as [Nv, ...]: their places in a tensor [B · L, ...] of padded sequences.</summary>
    internal Tensor VisualRows()
    {
        var rows = new List<long>(VisualTokens);
        for (var b = 0; b < Batch; b++)
        {
            for (var i = 0; i < Length(b); i++)
            {
                if (Visual(b)[i])
                    rows.Add((long)b * Longest + i);
            }
        }

        return torch.tensor(rows.ToArray());
    }

    /// <summary>What is left of them.</summary>
    /// <param name="keep">[B, <see cref="Longest"/>]: 1 where a token goes on.</param>
    internal SequenceLayout Keep(ReadOnlySpan<float> keep)
    {
        var segments = new int[_segments.Length];
        var visual = new List<bool>(Tokens);
        for (var b = 0; b < Batch; b++)
        {
            for (var i = 0; i < Length(b); i++)
            {
                if (keep[b * Longest + i] == 1)
                    visual.Add(Visual(b)[i]);
            }

            segments[b + 1] = visual.Count;
        }

        return new(segments, [.. visual]);
    }

    /// <summary>Refuses a tensor that does not hold these sequences, padded: [B, Longest, ...].</summary>
    internal void Require(Tensor tensor, string name)
    {
        Batches.Require(tensor, name);
        if (tensor.shape.Length < 2 || tensor.shape[0] != Batch || tensor.shape[1] != Longest)
        {
            throw new ArgumentException(
                $"{name}: {Batches.Describe(tensor)} does not hold {Batch} sequences of up to {Longest} tokens", name);
        }
    }
}
