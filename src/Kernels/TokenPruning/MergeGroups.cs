using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The rows of one call of <see cref="TokenMerge"/> and the slots that group them. What reads them is for host memory.</summary>
internal readonly unsafe struct MergeGroups
{
    public required DType DType { get; init; }

    public required void* Source { get; init; }

    public required void* Destination { get; init; }

    public required int* Slots { get; init; }

    public required long Tokens { get; init; }

    public required int Kept { get; init; }

    public required int Width { get; init; }

    /// <summary>Null where each is 1.</summary>
    public required float* Sizes { get; init; }

    public required float* MergedSizes { get; init; }

    public float SizeOf(long token) => Sizes == null ? 1 : Sizes[token];

    public void Check()
    {
        CheckSlots(Slots, Tokens, Kept);
        for (var i = 0L; Sizes != null && i < Tokens; i++)
        {
            if (!(Sizes[i] > 0 && float.IsFinite(Sizes[i])))
                throw TensorArguments.Refused($"sizes[{i}] is {Sizes[i]}; a size is finite and above 0", "sizes");
        }
    }

    public static void CheckSlots(int* slots, long tokens, int kept)
    {
        for (var i = 0L; i < tokens; i++)
        {
            if (slots[i] < -1 || slots[i] >= kept)
                throw TensorArguments.Refused($"slots[{i}] is {slots[i]}; slots are within -1 and {kept - 1}", nameof(slots));
        }
    }

    /// <summary>The members of each slot in index order: those of slot j lie at begins[j] up to begins[j + 1].</summary>
    public void List(int* begins, int* members)
    {
        new Span<int>(begins, Kept + 1).Clear();
        for (var i = 0L; i < Tokens; i++)
        {
            if (Slots[i] >= 0)
                begins[Slots[i]]++;
        }

        var end = 0;
        for (var slot = 0; slot <= Kept; slot++)
            (begins[slot], end) = (end, end + begins[slot]);
        for (var i = 0; i < Tokens; i++)
        {
            if (Slots[i] >= 0)
                members[begins[Slots[i]]++] = i;
        }

        for (var slot = Kept; slot > 0; slot--) // each begin has become the next one's
            begins[slot] = begins[slot - 1];
        begins[0] = 0;
    }
}
