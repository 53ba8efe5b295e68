namespace AuxCore.Kernels;

/// <summary>The operands of one call of <see cref="TokenCompact"/>. What reads the selection is for host memory.</summary>
/// <param name="items">The tensors.</param>
/// <param name="segments">Where each segment of the source begins, and the end.</param>
/// <param name="offsets">Where the kept tokens of each begin, and the end.</param>
/// <param name="count">How many segments there are.</param>
/// <param name="indices">The kept tokens; null for the backward.</param>
/// <param name="length">Elements of the indices, or of the slots.</param>
/// <param name="slots">The place of each token; null for the forward.</param>
internal readonly unsafe struct TokenCompactWork(
    CompactItem[] items, int* segments, int* offsets, int count, int* indices, long length, int* slots)
{
    public CompactItem[] Items => items;

    public int* Bounds => segments;

    public int* Offsets => offsets;

    public int* Indices => indices;

    public int* Slots => slots;

    /// <summary>Elements of the indices, or of the slots.</summary>
    public long MapLength => length;

    public int Segments => count;

    /// <summary>The numbers of a segment's tokens; of all, for tensors that have no dimension for segments.</summary>
    public (int From, int To) Tokens(CompactItem item, int segment) =>
        item.IsPadded ? (segments[segment], segments[segment + 1]) : (0, segments[count]);

    /// <summary>The places of a segment's kept tokens; of all, for tensors that have no dimension for segments.</summary>
    public (int From, int To) Kept(CompactItem item, int segment) =>
        item.IsPadded ? (offsets[segment], offsets[segment + 1]) : (0, offsets[count]);

    /// <summary>How many rows of a tensor are kept, over all its strips.</summary>
    public long KeptRows(CompactItem item) => (item.IsPadded ? item.Strips / Math.Max(1, count) : item.Strips) * offsets[count];

    /// <summary>Refuses a selection that is none of these segments, and tensors that do not fit it.</summary>
    public void Check()
    {
        CheckOffsets();
        if (length < offsets[count])
            throw new ArgumentException($"selection.Indices: int32[{length}], but {offsets[count]} tokens were kept", "selection");
        for (var b = 0; b < count; b++)
        {
            var before = segments[b] - 1;
            for (var j = offsets[b]; j < offsets[b + 1]; before = indices[j++])
            {
                if (indices[j] > before && indices[j] < segments[b + 1])
                    continue;
                throw new ArgumentException(
                    $"indices[{j}] is {indices[j]}; those of segment {b} ascend within {segments[b]} and {segments[b + 1] - 1}", "indices");
            }
        }

        CheckTensors(forward: true);
    }

    /// <inheritdoc cref="Check"/>
    public void CheckBackward()
    {
        CheckOffsets();
        if (slots != null && length != 0 && length != segments[count])
            throw new ArgumentException($"selection.Slots: int32[{length}], but there are {segments[count]} tokens", "selection");
        for (var b = 0; b < count; b++)
        {
            for (var i = segments[b]; i < segments[b + 1]; i++)
            {
                if (slots[i] != -1 && (slots[i] < offsets[b] || slots[i] >= offsets[b + 1]))
                {
                    throw new ArgumentException(
                        $"slots[{i}] is {slots[i]}; those of segment {b} are -1 or within {offsets[b]} and {offsets[b + 1] - 1}", "slots");
                }
            }
        }

        CheckTensors(forward: false);
    }

    /// <summary>Refuses memory that overlaps: all that can be said where the selection is not read.</summary>
    public void CheckMemory(bool forward)
    {
        var ranges = Ranges((nint)(indices == null ? 0 : length), (nint)(slots == null ? 0 : length));
        foreach (var item in items)
            AddRanges(ranges, item, forward);
        MemoryRange.RequireDisjoint(ranges);
    }

    private void CheckOffsets()
    {
        TokenSegments.Check(segments, count + 1, segments[count], "segments");
        TokenSegments.Check(offsets, count + 1, offsets[count], "offsets");
        for (var b = 0; b < count; b++)
        {
            if (offsets[b + 1] - offsets[b] > segments[b + 1] - segments[b])
            {
                throw new ArgumentException(
                    $"offsets: {offsets[b + 1] - offsets[b]} tokens kept of segment {b}, which has {segments[b + 1] - segments[b]}",
                    "selection");
            }
        }
    }

    private void CheckTensors(bool forward)
    {
        var ranges = Ranges(indices == null ? 0 : offsets[count], slots == null ? 0 : segments[count]);
        foreach (var item in items)
        {
            var (all, kept) = forward ? (item.SourceTokens, item.DestinationTokens) : (item.DestinationTokens, item.SourceTokens);
            var (allNeeded, keptNeeded) = Longest(item);
            if (item.IsPadded ? all < allNeeded : all != allNeeded)
            {
                throw Refused(
                    $"{item.Name}: {all} tokens, but the selection was made of {allNeeded}" + (item.IsPadded ? " in a segment" : ""));
            }

            if (kept < keptNeeded)
                throw Refused($"{item.Name}: place for {kept} kept tokens, but {keptNeeded} were kept");
            AddRanges(ranges, item, forward);
        }

        MemoryRange.RequireDisjoint(ranges);
    }

    private List<MemoryRange> Ranges(nint indexCount, nint slotCount) => new(2 * items.Length + 4)
    {
        new((nint)segments, (count + 1) * sizeof(int), "segments", false),
        new((nint)offsets, (count + 1) * sizeof(int), "selection.Offsets", false),
        new((nint)indices, indexCount * sizeof(int), "selection.Indices", false),
        new((nint)slots, slotCount * sizeof(int), "selection.Slots", false),
    };

    private static void AddRanges(List<MemoryRange> ranges, CompactItem item, bool forward)
    {
        if (!forward || !item.IsInPlace)
            ranges.Add(new((nint)item.Source, (nint)item.SourceBytes, $"{item.Name}.source", false));
        ranges.Add(new((nint)item.Destination, (nint)item.DestinationBytes, $"{item.Name}.destination", true));
        if (forward && item.IsInPlace && item.SourceBytes > item.DestinationBytes)
        {
            // What only the source reaches is read.
            var rest = (nint)(item.SourceBytes - item.DestinationBytes);
            ranges.Add(new((nint)(item.Source + item.DestinationBytes), rest, $"{item.Name}.source", false));
        }
    }

    private static ArgumentException Refused(string message) => TensorArguments.Refused(message, "tensors");

    private (int All, int Kept) Longest(CompactItem item)
    {
        if (!item.IsPadded)
            return (segments[count], offsets[count]);
        var (all, kept) = (0, 0);
        for (var b = 0; b < count; b++)
            (all, kept) = (Math.Max(all, segments[b + 1] - segments[b]), Math.Max(kept, offsets[b + 1] - offsets[b]));
        return (all, kept);
    }
}
