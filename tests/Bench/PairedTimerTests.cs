using AuxCore.Bench.Measurement;

namespace AuxCore.Tests.Bench;

public class PairedTimerTests
{
    private const long Millisecond = 1_000_000;

    [Fact]
    public void Every_round_runs_each_arm_once_in_a_fresh_order()
    {
        var bench = new FakeBench();
        bench.Run(new() { Rounds = 40, MinRounds = 40 }, bench.Arm("a", 2), bench.Arm("b", 2), bench.Arm("c", 2));

        // An arm's calls last longer than a sample has to, so each sample is one call and the last calls are the rounds.
        string[] rounds = [.. bench.Calls.TakeLast(3 * 40).Chunk(3).Select(round => string.Concat(round))];
        Assert.All(rounds, round => Assert.Equal("abc", string.Concat(round.Order())));
        Assert.Equal(6, rounds.Distinct().Count()); // of 40, all 6 orders of three arms come up
    }

    [Fact]
    public void The_order_depends_on_the_seed_only()
    {
        Assert.Equal(Order(seed: 1), Order(seed: 1));
        Assert.NotEqual(Order(seed: 1), Order(seed: 2));

        static string Order(int seed)
        {
            var bench = new FakeBench();
            bench.Run(new() { Rounds = 20, MinRounds = 20, Seed = seed }, bench.Arm("a", 2), bench.Arm("b", 2));
            return string.Concat(bench.Calls);
        }
    }

    [Fact]
    public void Samples_of_one_index_are_from_one_round()
    {
        // The machine slows down as it goes. Each round is 2:1 nevertheless, and only pairing shows it.
        var bench = new FakeBench();
        int calls = 0;
        long Slowness() => 2 * Millisecond + calls++ / 2 * Millisecond;
        PairedResult result = bench.Run(
            new() { Rounds = 25, MinRounds = 25, WarmUp = TimeSpan.Zero },
            bench.Arm("slow", () => 2 * Slowness()), bench.Arm("fast", Slowness));

        Assert.Equal(25, result.Rounds);
        Assert.Equal(result.Samples("slow").Length, result.Samples("fast").Length);
        Assert.Equal(new Quartiles(2, 2, 2), result.Ratio("slow", "fast"));
        Assert.True(result.Time("fast").Q3 > 1.5 * result.Time("fast").Q1);
    }

    [Fact]
    public void Short_calls_are_repeated_until_a_sample_is_long_enough()
    {
        var bench = new FakeBench();
        var options = new TimingOptions { Rounds = 3, MinRounds = 3, MinSample = TimeSpan.FromMilliseconds(1), WarmUp = TimeSpan.Zero };
        PairedResult result = bench.Run(options, bench.Arm("short", () => 1000), bench.Arm("long", () => 5 * Millisecond));

        Assert.Equal(1024, result.CallsPerSample("short")); // the power of two that makes 1 ms of 1 us
        Assert.Equal(1, result.CallsPerSample("long"));
        Assert.Equal(new Quartiles(1000, 1000, 1000), result.Time("short")); // a call, not a sample
        Assert.Equal(new Quartiles(5000, 5000, 5000), result.Ratio("long", "short"));
    }

    [Theory]
    [InlineData(100, 5, 0.001, 5)] // no time: the fewest rounds
    [InlineData(100, 5, 0.05, 13)] // a round takes 4 ms: the thirteenth begins at 48 ms
    [InlineData(10, 5, 1000, 10)] // time enough: the most rounds
    public void Rounds_end_by_number_or_time(int rounds, int minRounds, double seconds, int expected)
    {
        var bench = new FakeBench();
        var options = new TimingOptions { Rounds = rounds, MinRounds = minRounds, MaxSeconds = seconds };
        Assert.Equal(expected, bench.Run(options, bench.Arm("a", 2), bench.Arm("b", 2)).Rounds);
    }

    [Fact]
    public void Progress_rises_to_one()
    {
        var bench = new FakeBench();
        bench.Run(new() { Rounds = 50, MinRounds = 5, MaxSeconds = 0.1 }, bench.Arm("a", 2), bench.Arm("b", 2));
        Assert.Equal(bench.Fractions.Order(), bench.Fractions);
        Assert.Equal(1, bench.Fractions[^1]);
        Assert.All(bench.Fractions, fraction => Assert.InRange(fraction, 0, 1));
    }

    [Fact]
    public void Cancellation_stops_between_samples()
    {
        var bench = new FakeBench();
        using var stop = new CancellationTokenSource();
        TimedArm stopping = bench.Arm("stopping", () =>
        {
            if (bench.Calls.Count == 30) stop.Cancel();
            return 2 * Millisecond;
        });
        Assert.Throws<OperationCanceledException>(
            () => PairedTimer.Run([stopping], new() { WarmUp = TimeSpan.Zero }, bench.Now, bench.Now, null, stop.Token));
        Assert.Equal(30, bench.Calls.Count);
    }

    [Fact]
    public void Bad_requests_are_refused()
    {
        var bench = new FakeBench();
        Assert.Throws<ArgumentException>(() => bench.Run(new()));
        Assert.Throws<ArgumentException>(() => bench.Run(new() { Rounds = 3, MinRounds = 4 }, bench.Arm("a", 2)));
        Assert.Throws<ArgumentException>(() => bench.Run(new() { Rounds = 3, MinRounds = 3 }, bench.Arm("a", 2), bench.Arm("a", 2)));
    }

    [Fact]
    public void The_real_clocks_run_too()
    {
        double sum = 0;
        var options = new TimingOptions { Rounds = 3, MinRounds = 3, WarmUp = TimeSpan.Zero, UseThreadCpuTime = true };
        var work = new TimedArm("work", () => sum += Math.Sqrt(sum + 1));
        PairedResult result = PairedTimer.Run([work], options, null, TestContext.Current.CancellationToken);
        Assert.True(result.Time("work").Q1 > 0);
    }

    /// <summary>Arms that take as long as they say, by a clock that only they advance.</summary>
    private sealed class FakeBench : IProgress<double>
    {
        private long _now;

        public List<string> Calls { get; } = [];

        public List<double> Fractions { get; } = [];

        public long Now() => _now;

        public TimedArm Arm(string name, int milliseconds) => Arm(name, () => milliseconds * Millisecond);

        public TimedArm Arm(string name, Func<long> nanoseconds) => new(name, () =>
        {
            Calls.Add(name);
            _now += nanoseconds();
        });

        public PairedResult Run(TimingOptions options, params TimedArm[] arms) =>
            PairedTimer.Run(arms, options, Now, Now, this, TestContext.Current.CancellationToken);

        public void Report(double value) => Fractions.Add(value);
    }
}
