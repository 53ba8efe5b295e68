using System.Diagnostics;
using AuxCore.Bench.Measurement;

namespace AuxCore.Tests.Bench;

public class ThreadClockTests
{
    [Fact]
    public void Sleep_costs_no_processor_time()
    {
        Assert.SkipUnless(ThreadClock.IsCpuTime, "This system's thread clock is not bound; the wall clock stands in for it.");
        long cpu = ThreadClock.Nanoseconds(), wall = ThreadClock.WallNanoseconds();
        Thread.Sleep(50);
        cpu = ThreadClock.Nanoseconds() - cpu;
        wall = ThreadClock.WallNanoseconds() - wall;
        Assert.True(wall >= 49_000_000, $"slept {wall} ns");
        Assert.True(cpu < wall / 2, $"used {cpu} ns of {wall}");
    }

    [Fact]
    public void Work_costs_processor_time_and_no_more_than_passes()
    {
        var watch = Stopwatch.StartNew();
        long start = ThreadClock.Nanoseconds();
        double sum = 0;
        for (int i = 0; i < 2_000_000; i++) sum += Math.Sqrt(i);
        long used = ThreadClock.Nanoseconds() - start;
        Assert.True(sum > 0 && used > 0 && used <= watch.Elapsed.TotalNanoseconds + 1e6, $"used {used} ns of {watch.Elapsed}");
    }
}
