namespace AuxCore.Bench.Measurement;

/// <summary>One of the things that are timed against each other.</summary>
/// <param name="Name">Unique within a run.</param>
/// <param name="Run">One call.</param>
internal sealed record TimedArm(string Name, Action Run);

/// <summary>How long and by which clock <see cref="PairedTimer"/> measures.</summary>
internal sealed record TimingOptions
{
    /// <summary>The most rounds; each gives one sample an arm.</summary>
    public int Rounds { get; init; } = 200;

    /// <summary>The fewest rounds, even if they take longer than <see cref="MaxSeconds"/>.</summary>
    public int MinRounds { get; init; } = 15;

    /// <summary>Wall time for the rounds; no round starts after it once <see cref="MinRounds"/> are done.</summary>
    public double MaxSeconds { get; init; } = 5;

    /// <summary>A sample repeats its arm until it lasts about this long, so that the clock's own cost does not count.</summary>
    public TimeSpan MinSample { get; init; } = TimeSpan.FromMilliseconds(1);

    /// <summary>How long each arm runs beforehand, so that the JIT has finished with it.</summary>
    public TimeSpan WarmUp { get; init; } = TimeSpan.FromMilliseconds(200);

    /// <summary>Seeds the order of the arms within the rounds.</summary>
    public int Seed { get; init; } = 1;

    /// <summary>Measure by <see cref="ThreadClock"/>. Set it only if each arm does all of its work on the calling thread.</summary>
    public bool UseThreadCpuTime { get; init; }
}
