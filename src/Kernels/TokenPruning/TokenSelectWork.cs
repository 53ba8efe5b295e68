using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The operands of one call of <see cref="TokenSelect"/>. What reads them is for host memory.</summary>
internal readonly unsafe struct TokenSelectWork
{
    public required DType ScoreType { get; init; }

    public required void* Scores { get; init; }

    public required long Tokens { get; init; }

    public required int* Bounds { get; init; }

    public required long BoundCount { get; init; }

    /// <summary>Null where no token is always kept.</summary>
    public required byte* Always { get; init; }

    public required Budget Budget { get; init; }

    /// <summary>How many of each segment, all where it has fewer, instead of the budget; null where that is for all.</summary>
    public int* Counts { get; init; }

    public required int* Indices { get; init; }

    public required long IndexCapacity { get; init; }

    public required int* Offsets { get; init; }

    public required int* Slots { get; init; }

    public required int* NaNCounts { get; init; }

    public int Segments => (int)BoundCount - 1;

    public Budget BudgetOf(int segment) => Counts == null ? Budget : Budget.Count(Counts[segment]);

    public float ScoreAt(long token) => ReferenceFormat.Widen(Scores, ScoreType, token);

    public bool IsAlways(long token) => Always != null && Always[token] != 0;

    public void Check()
    {
        TokenSegments.Check(Bounds, BoundCount, Tokens, "segments");
        RequireDisjoint();
        var capacity = Capacity(Bounds, Segments, Budget, Always);
        if (IndexCapacity < capacity)
        {
            throw new ArgumentException(
                $"selection.Indices: int32[{IndexCapacity}] is too short; the budget may keep {capacity} tokens, see TokenSelect.Capacity",
                "selection");
        }
    }

    /// <summary>Refuses segments that have not even an end.</summary>
    public void RequireBounds() => TokenSegments.RequireEnd(BoundCount, "segments");

    /// <summary>Refuses outputs that share memory with anything else, and a budget that is none: what can be said of any memory.</summary>
    public void RequireDisjoint()
    {
        RequireBudget(Budget);
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("scores", Scores, Tokens * ScoreType.Size()),
            NamedMemory.Read("segments", Bounds, BoundCount * sizeof(int)),
            NamedMemory.Read("always", Always, Always == null ? 0 : Tokens),
            NamedMemory.Written("selection.Indices", Indices, IndexCapacity * sizeof(int)),
            NamedMemory.Written("selection.Offsets", Offsets, BoundCount * sizeof(int)),
            NamedMemory.Written("selection.Slots", Slots, Slots == null ? 0 : Tokens * sizeof(int)),
            NamedMemory.Written("selection.NaNCounts", NaNCounts, NaNCounts == null ? 0 : Segments * (long)sizeof(int)));
    }

    /// <summary>The most that a budget keeps of all segments together.</summary>
    public static int Capacity(int* bounds, int segments, Budget budget, byte* always)
    {
        RequireBudget(budget);
        var capacity = 0;
        for (var b = 0; b < segments; b++)
        {
            var length = bounds[b + 1] - bounds[b];
            if (budget.Rule == BudgetRule.Count && budget.Tokens > length)
            {
                throw new ArgumentException(
                    $"budget: {budget.Tokens} tokens of each segment, but segment {b} has {length}; Budget.Ratio(1).Within(maximum: "
                    + $"{budget.Tokens}) keeps at most so many", nameof(budget));
            }

            var kept = always == null ? 0 : length - new ReadOnlySpan<byte>(always + bounds[b], length).Count((byte)0);
            capacity += budget.Limit(budget.MostOf(length), length, kept);
        }

        return capacity;
    }

    private static void RequireBudget(Budget budget)
    {
        if (budget.Rule == BudgetRule.None)
        {
            throw new ArgumentException(
                "budget: a default value; make one by Budget.Count, Ratio, Threshold, TopP or Outliers", nameof(budget));
        }
    }
}

/// <summary>The mass of a score in <see cref="Budget.TopP"/>: an integer below 2^32, so that sums of 2^31 of them are exact.</summary>
internal readonly struct TokenMass
{
    private const int Bits = 31;

    private readonly double _scale;
    private readonly bool _isInfinite;

    /// <param name="largest">The largest score; anything not above 0 gives all scores no mass.</param>
    public TokenMass(float largest)
    {
        _isInfinite = float.IsPositiveInfinity(largest);
        _scale = largest > 0 && !_isInfinite ? Math.ScaleB(1, Bits - Math.ILogB(largest)) : 0;
    }

    /// <summary>Exact up to the rounding down to an integer: the scale is a power of two.</summary>
    public uint Of(float score) =>
        _isInfinite ? (float.IsPositiveInfinity(score) ? 1u : 0) : score > 0 ? (uint)(score * _scale) : 0;

    /// <summary>The mass wanted of a sum.</summary>
    public static ulong Wanted(double share, ulong sum) => share >= 1 ? sum : Math.Min(sum, (ulong)Math.Ceiling(share * sum));
}
