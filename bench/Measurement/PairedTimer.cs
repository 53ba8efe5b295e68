namespace AuxCore.Bench.Measurement;

/// <summary>
/// Times several arms against each other on a machine that others use too. Arms that run one after the other meet different loads, caches
/// and clock frequencies; here every round runs each arm once, in a freshly shuffled order, and arms are compared within the rounds.
/// Medians and quartiles are reported and never minima: on a busy machine the minimum picks the luckiest arm.
/// </summary>
internal static class PairedTimer
{
    private const int MaxCalls = 1 << 20;

    /// <summary>Warms the arms up, chooses how often each is called a sample, then times them round by round.</summary>
    /// <remarks>
    /// A sample calls its arm several times where one call is short. An arm whose data fit in the cache then meets them there from the
    /// second call on; an arm that is to be timed on cold data walks through several copies of them itself, as <see cref="BandwidthProbe"/>
    /// does.
    /// </remarks>
    public static PairedResult Run(
        IReadOnlyList<TimedArm> arms, TimingOptions options, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        bool cpuTime = options.UseThreadCpuTime && ThreadClock.IsCpuTime;
        Func<long> clock = cpuTime ? ThreadClock.Nanoseconds : ThreadClock.WallNanoseconds;
        return Run(arms, options, clock, ThreadClock.WallNanoseconds, progress, cancellation);
    }

    /// <summary>The same by given clocks: <paramref name="clock"/> times samples, <paramref name="wall"/> limits the run.</summary>
    internal static PairedResult Run(
        IReadOnlyList<TimedArm> arms, TimingOptions options, Func<long> clock, Func<long> wall,
        IProgress<double>? progress, CancellationToken cancellation)
    {
        if (arms.Count == 0) throw new ArgumentException("There is nothing to time.", nameof(arms));
        if (options.MinRounds < 1 || options.Rounds < options.MinRounds)
        {
            throw new ArgumentException(
                $"1 <= MinRounds ({options.MinRounds}) <= Rounds ({options.Rounds}) does not hold.", nameof(options));
        }

        var calls = new int[arms.Count];
        for (int arm = 0; arm < arms.Count; arm++)
        {
            WarmUp(arms[arm].Run, options.WarmUp, wall, cancellation);
            calls[arm] = Calibrate(arms[arm].Run, options.MinSample, clock, cancellation);
        }

        // Garbage of the warm-up would otherwise be collected in somebody's sample.
        GC.Collect();
        GC.WaitForPendingFinalizers();

        List<double>[] samples = [.. arms.Select(_ => new List<double>(options.Rounds))];
        int[] order = [.. Enumerable.Range(0, arms.Count)];
        var random = new Random(options.Seed);
        long start = wall();
        for (int round = 0; round < options.Rounds; round++)
        {
            double spent = (wall() - start) / (options.MaxSeconds * 1e9);
            if (round >= options.MinRounds && spent >= 1) break;
            progress?.Report(Math.Max((double)round / options.Rounds, Math.Min((double)round / options.MinRounds, spent)));

            random.Shuffle(order);
            foreach (int arm in order)
            {
                cancellation.ThrowIfCancellationRequested();
                samples[arm].Add(Sample(arms[arm].Run, calls[arm], clock) / (double)calls[arm]);
            }
        }

        progress?.Report(1);
        return new([.. arms.Select(arm => arm.Name)], [.. samples.Select(list => list.ToArray())], calls);
    }

    private static void WarmUp(Action run, TimeSpan duration, Func<long> wall, CancellationToken cancellation)
    {
        long end = wall() + (long)duration.TotalNanoseconds;
        int count = 0;
        do
        {
            cancellation.ThrowIfCancellationRequested();
            run();
        }
        while (wall() < end && ++count < MaxCalls);
    }

    private static int Calibrate(Action run, TimeSpan minSample, Func<long> clock, CancellationToken cancellation)
    {
        for (int calls = 1; ; calls = Math.Min(2 * calls, MaxCalls))
        {
            cancellation.ThrowIfCancellationRequested();
            if (Sample(run, calls, clock) >= minSample.TotalNanoseconds || calls == MaxCalls) return calls;
        }
    }

    private static long Sample(Action run, int calls, Func<long> clock)
    {
        long start = clock();
        for (int call = 0; call < calls; call++) run();
        return clock() - start;
    }
}
