using System.Numerics;

namespace AuxCore.Kernels;

/// <summary>Which elements of a head a rotary embedding turns together.</summary>
public enum RotaryLayout
{
    /// <summary>Element i and i + r / 2 of the r that are rotated: LLaMA, Qwen, GPT-NeoX.</summary>
    Halves,

    /// <summary>Element 2 i and 2 i + 1: GPT-J, RoFormer.</summary>
    Pairs,
}

/// <summary>
/// The rotary embedding of a model's keys (Su et al. 2021, arXiv 2104.09864): pair i of r / 2 is turned by position · base^(−2 i / r).
/// </summary>
/// <remarks>
/// Factors that some models multiply cosines and sines by, such as YaRN's attention factor, are in the keys already and stay there: a turn
/// by a difference of positions knows nothing of them.
/// </remarks>
public sealed class RotaryOptions
{
    private volatile RotaryTable? _table;

    /// <summary>The base of the frequencies, above 1: 10,000 in LLaMA, 1,000,000 in Qwen2.</summary>
    public double Base { get; init; } = 10_000;

    /// <summary>r: how many elements of a head are rotated, even, from the first; 0 for all.</summary>
    public int RotatedDepth { get; init; }

    /// <summary>Which elements are turned together.</summary>
    public RotaryLayout Layout { get; init; }

    /// <summary>
    /// How many pairs follow each row of positions: [16, 24, 24] for time, height and width in Qwen2-VL (M-RoPE). Empty: all follow one.
    /// </summary>
    public IReadOnlyList<int> Sections { get; init; } = [];

    /// <summary>[r / 2]: radians a position for each pair, where a model has scaled them; empty for those of the base.</summary>
    public IReadOnlyList<double> Frequencies { get; init; } = [];

    /// <summary>How many elements of a head of this depth are rotated; refuses options that do not fit it.</summary>
    internal int Check(long depth)
    {
        var rotated = RotatedDepth == 0 ? depth : RotatedDepth;
        if (rotated < 2 || rotated % 2 != 0 || rotated > depth)
            throw Refused($"options: {rotated} of {depth} elements are rotated; an even number, from 2 to {depth}, is needed");
        if (!(Base > 1 && double.IsFinite(Base)))
            throw Refused($"options.Base is {Base}; it is finite and above 1");
        if (!Enum.IsDefined(Layout))
            throw Refused($"options.Layout {Layout} is none");
        if (Sections.Count > 0 && (Sections.Any(section => section < 0) || Sections.Sum(section => (long)section) != rotated / 2))
            throw Refused($"options.Sections: [{string.Join(", ", Sections)}] are not {rotated / 2} pairs together");
        if (Frequencies.Count > 0 && Frequencies.Count != rotated / 2)
            throw Refused($"options.Frequencies: {Frequencies.Count} numbers, but {rotated / 2} pairs are rotated");
        if (Frequencies.Any(frequency => !double.IsFinite(frequency)))
            throw Refused("options.Frequencies: one is not finite");
        return (int)rotated;
    }

    /// <summary>Radians a position for each pair.</summary>
    internal double[] FrequenciesOf(int rotated) => Frequencies.Count > 0
        ? [.. Frequencies]
        : [.. Enumerable.Range(0, rotated / 2).Select(pair => Math.Pow(Base, -2.0 * pair / rotated))];

    /// <summary>
    /// Cosines and sines of all positions below a number, or of more: made once, kept, and made anew when a later position is asked for.
    /// </summary>
    internal RotaryTable TableOf(int rotated, int positions)
    {
        var table = _table;
        if (table is null || table.Rotated != rotated || table.Positions < positions)
            _table = table = new(this, rotated, (int)BitOperations.RoundUpToPowerOf2((uint)positions));
        return table;
    }

    /// <summary>Which row of positions each pair follows.</summary>
    internal int[] RowsOf(int rotated) => Sections.Count == 0
        ? new int[rotated / 2]
        : [.. Sections.SelectMany((count, row) => Enumerable.Repeat(row, count))];

    private static ArgumentException Refused(string message) => TensorArguments.Refused(message, "options");
}
