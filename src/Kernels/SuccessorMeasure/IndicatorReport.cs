using System.Globalization;

namespace AuxCore.Kernels;

/// <summary>
/// What sets of states look like after calibration: which are useless for learning, and how large the others are. A set that holds no
/// state, or all of them, teaches nothing; features behind a ReLU give many of the former, so leave the last ReLU out.
/// </summary>
public sealed class IndicatorReport
{
    private IndicatorReport(long states, IReadOnlyList<int> dead, IReadOnlyList<int> full, IReadOnlyList<int> notANumber, double meanRate)
    {
        States = states;
        DeadTasks = dead;
        FullTasks = full;
        NotANumberTasks = notANumber;
        MeanRate = meanRate;
    }

    /// <summary>The number of states that were looked at.</summary>
    public long States { get; }

    /// <summary>Tasks whose set holds none of the states, in ascending order.</summary>
    public IReadOnlyList<int> DeadTasks { get; }

    /// <summary>Tasks whose set holds all of the states, in ascending order.</summary>
    public IReadOnlyList<int> FullTasks { get; }

    /// <summary>Tasks with a NaN among their features, or as their threshold, in ascending order.</summary>
    public IReadOnlyList<int> NotANumberTasks { get; }

    /// <summary>The mean share of the states that the sets hold, over the tasks without NaN; NaN where there are none.</summary>
    public double MeanRate { get; }

    /// <summary>Reads counts, such as a device's after they were copied to the host.</summary>
    /// <param name="activeCounts">[T]: states in each set; negative where a NaN was met.</param>
    /// <param name="states">How many states were looked at.</param>
    /// <exception cref="ArgumentOutOfRangeException">No states, or more in a set than there are.</exception>
    public static IndicatorReport Of(ReadOnlySpan<int> activeCounts, long states)
    {
        TensorArguments.RequireAtLeastOne(nameof(states), states);
        List<int> dead = [], full = [], notANumber = [];
        var active = 0L;
        for (var t = 0; t < activeCounts.Length; t++)
        {
            var count = activeCounts[t];
            if (count > states)
                throw new ArgumentOutOfRangeException(nameof(activeCounts), count, $"activeCounts[{t}] exceeds the {states} states.");
            if (count < 0)
                notANumber.Add(t);
            else if (count == 0)
                dead.Add(t);
            else if (count == states)
                full.Add(t);
            active += Math.Max(0, count);
        }

        var counted = activeCounts.Length - notANumber.Count;
        return new(states, dead, full, notANumber, counted == 0 ? double.NaN : (double)active / states / counted);
    }

    /// <summary>One line for a log.</summary>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{States} states, {100 * MeanRate:0.##} % of them in a set on average; {DeadTasks.Count} dead tasks, {FullTasks.Count} full, "
        + $"{NotANumberTasks.Count} with NaN");
}
