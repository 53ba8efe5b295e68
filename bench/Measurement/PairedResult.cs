namespace AuxCore.Bench.Measurement;

/// <summary>The samples of one <see cref="PairedTimer"/> run, in nanoseconds a call; sample r of every arm comes from round r.</summary>
internal sealed class PairedResult
{
    private readonly Dictionary<string, int> _index = [];
    private readonly double[][] _samples;
    private readonly int[] _calls;

    /// <summary>Takes the samples of each arm; all arms have equally many.</summary>
    /// <exception cref="ArgumentException">Two arms share a name, or the arms have unequal numbers of samples.</exception>
    public PairedResult(IReadOnlyList<string> arms, double[][] samples, int[] calls)
    {
        if (arms.Count != samples.Length || samples.Any(list => list.Length != samples[0].Length))
            throw new ArgumentException("Paired samples need the same rounds for every arm.", nameof(samples));
        for (int i = 0; i < arms.Count; i++)
            if (!_index.TryAdd(arms[i], i)) throw new ArgumentException($"Two arms are called '{arms[i]}'.", nameof(arms));
        (Arms, _samples, _calls) = (arms, samples, calls);
    }

    /// <summary>The arms' names, as they were given.</summary>
    public IReadOnlyList<string> Arms { get; }

    /// <summary>How many samples each arm has.</summary>
    public int Rounds => _samples[0].Length;

    /// <summary>An arm's samples in nanoseconds a call, by round.</summary>
    public ReadOnlySpan<double> Samples(string arm) => _samples[_index[arm]];

    /// <summary>How many calls one sample of an arm averages.</summary>
    public int CallsPerSample(string arm) => _calls[_index[arm]];

    /// <summary>Quartiles of an arm's nanoseconds a call.</summary>
    public Quartiles Time(string arm) => Quartiles.Of(Samples(arm));

    /// <summary>
    /// Quartiles of <paramref name="baseline"/>'s time over <paramref name="ours"/>, round by round: above 1, ours is the faster one.
    /// </summary>
    public Quartiles Ratio(string baseline, string ours)
    {
        ReadOnlySpan<double> above = Samples(baseline), below = Samples(ours);
        var ratios = new double[above.Length];
        for (int round = 0; round < ratios.Length; round++) ratios[round] = above[round] / below[round];
        return Quartiles.Of(ratios);
    }
}
