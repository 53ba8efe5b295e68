using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// Which visual tokens of a batch go on, and which are merged into them: what a policy of <see cref="DecoderPruning"/> answers. Tokens are
/// numbered as <see cref="SequenceLayout.VisualSegments"/> does.
/// </summary>
public sealed class VisualSelection
{
    private readonly int[] _slots, _offsets, _owners;

    private VisualSelection(int[] slots, int[] offsets, int[] owners, int nanScores, bool merges)
    {
        (_slots, _offsets, _owners) = (slots, offsets, owners);
        (NaNScores, Merges) = (nanScores, merges);
    }

    /// <summary>[Nv]: the place of each token's group among the rows that go on, or −1 where it is dropped.</summary>
    public ReadOnlySpan<int> Slots => _slots;

    /// <summary>[B + 1]: where the rows of each sequence begin among those that go on, and the end.</summary>
    public ReadOnlySpan<int> Offsets => _offsets;

    /// <summary>The token whose place and position each row takes: ascending.</summary>
    public ReadOnlySpan<int> Owners => _owners;

    /// <summary>How many scores were NaN; such tokens rank last.</summary>
    public int NaNScores { get; }

    /// <summary>Whether a row is the mean of several tokens.</summary>
    public bool Merges { get; }

    /// <summary>Whether everything goes on as it is.</summary>
    public bool IsAll => !Merges && _owners.Length == _slots.Length;

    /// <summary>The tokens of highest score, by <see cref="TokenSelect"/>.</summary>
    /// <param name="scores">[Nv], one a visual token.</param>
    /// <param name="layout">The sequences.</param>
    /// <param name="budget">How many of each sequence's visual tokens go on. Text always does and is not counted.</param>
    /// <exception cref="ArgumentException">Scores are not one a visual token, or the budget asks for more than there are.</exception>
    public static VisualSelection Highest(ReadOnlySpan<float> scores, SequenceLayout layout, Budget budget)
    {
        ArgumentNullException.ThrowIfNull(layout);
        if (scores.Length != layout.VisualTokens)
            throw new ArgumentException($"scores: {scores.Length} scores for {layout.VisualTokens} visual tokens", nameof(scores));
        var segments = layout.VisualSegments;
        int[] indices = new int[TokenSelect.Capacity(segments, budget)], offsets = new int[segments.Length];
        int[] slots = new int[scores.Length], counts = new int[layout.Batch];
        var kept = TokenSelect.Run(
            scores, segments, budget, new() { Indices = indices, Offsets = offsets, Slots = slots, NaNCounts = counts });
        return new(slots, offsets, indices[..kept], counts.Sum(), merges: false);
    }

    /// <summary>Groups, each of which becomes the mean of its tokens at the place and position of one of them.</summary>
    /// <param name="owners">For each token the token whose group it is in, or −1 where it is dropped. An owner is its own.</param>
    /// <param name="layout">The sequences.</param>
    /// <exception cref="ArgumentException">There is not one for each token, or an owner is none or of another sequence.</exception>
    public static VisualSelection Groups(ReadOnlySpan<int> owners, SequenceLayout layout)
    {
        ArgumentNullException.ThrowIfNull(layout);
        if (owners.Length != layout.VisualTokens)
            throw new ArgumentException($"owners: {owners.Length} for {layout.VisualTokens} visual tokens", nameof(owners));
        var segments = layout.VisualSegments;
        int[] slots = new int[owners.Length], offsets = new int[segments.Length];
        var rows = new List<int>();
        for (var b = 0; b < layout.Batch; b++)
        {
            for (var token = segments[b]; token < segments[b + 1]; token++)
            {
                var owner = owners[token];
                if (owner >= 0 && (owner < segments[b] || owner >= segments[b + 1] || owners[owner] != owner))
                    throw new ArgumentException($"owners[{token}] is {owner}, which is no owner of sequence {b}", nameof(owners));
                if (owner != token)
                    continue;
                slots[token] = rows.Count;
                rows.Add(token);
            }

            offsets[b + 1] = rows.Count;
        }

        var merges = false;
        for (var token = 0; token < owners.Length; token++)
        {
            merges |= owners[token] >= 0 && owners[token] != token;
            slots[token] = owners[token] < 0 ? -1 : slots[owners[token]];
        }

        return new(slots, offsets, [.. rows], 0, merges);
    }
}
