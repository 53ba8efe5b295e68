using AuxCore.Bench.Cases;

namespace AuxCore.Tests.Bench;

public class CaseRunnerTests
{
    private static readonly CaseSettings Quick = new("cpu", 1, Quick: true, Seed: 1);

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public void A_right_case_gets_every_figure()
    {
        using var scaling = new ScaleCase();
        CaseResult result = CaseRunner.Run(scaling, Quick, null, Stop);

        Assert.Null(result.Failure);
        Assert.True(result.Verified);
        Assert.Equal(("tiny", "scale", "cpu", "f32", 1), (result.Path, result.Case, result.Backend, result.DType, result.Threads));
        Assert.Equal(scaling.Bytes, result.Bytes);
        Assert.Equal(0, result.MaxError);
        Assert.True(result.OursUs!.Value.Median > 0 && result.GbPerS > 0 && result.BandwidthFraction > 0);
        Assert.Equal(scaling.Bytes / (result.OursUs.Value.Median * 1e3), result.GbPerS!.Value, 1e-6 * result.GbPerS.Value);
    }

    [Fact]
    public void The_candidate_of_lower_median_is_the_best_baseline()
    {
        using var scaling = new ScaleCase();
        CaseResult result = CaseRunner.Run(scaling, Quick, null, Stop);

        Assert.Equal([BaselineKind.Best, BaselineKind.Published, BaselineKind.Other], result.Baselines.Select(baseline => baseline.Kind));
        Assert.True(result.Baselines[0].Us.Median <= result.Baselines[2].Us.Median);
        Assert.Equal(["a hundred times", "as published", "once"], result.Baselines.Select(baseline => baseline.Name).Order());
        Assert.Equal("as published", result.Baseline(BaselineKind.Published)!.Name);
        Assert.All(result.Baselines, baseline => Assert.True(baseline.Us.Median > 0 && baseline.Speedup.Median > 0));
    }

    [Fact]
    public void A_wrong_result_is_not_timed()
    {
        using var scaling = new ScaleCase { Wrong = true };
        CaseResult result = CaseRunner.Run(scaling, Quick, null, Stop);

        Assert.False(result.Verified);
        Assert.Equal("element 3 is off", result.Failure);
        Assert.Equal(0.5, result.MaxError);
        Assert.Null(result.OursUs);
        Assert.Empty(result.Baselines);
        Assert.Equal(0, scaling.Calls);
    }

    [Fact]
    public void An_error_that_is_no_number_is_no_verification()
    {
        using var scaling = new ScaleCase { Error = double.NaN };
        CaseResult result = CaseRunner.Verify(scaling, Quick);
        Assert.False(result.Verified);
        Assert.Contains("NaN", result.Failure, StringComparison.Ordinal);
    }

    [Fact]
    public void A_case_that_cannot_be_prepared_says_why()
    {
        using var scaling = new ScaleCase();
        CaseResult result = CaseRunner.Run(scaling, Quick with { Backend = "cuda" }, null, Stop);
        Assert.False(result.Verified);
        Assert.Equal("NotSupportedException: no cuda here", result.Failure);
    }

    [Fact]
    public void Two_threads_have_no_one_thread_reference()
    {
        using var scaling = new ScaleCase();
        CaseResult result = CaseRunner.Run(scaling, Quick with { Threads = 2 }, null, Stop);
        Assert.Null(result.BandwidthFraction);
        Assert.NotNull(result.GbPerS);
    }

    [Fact]
    public void Cancellation_is_no_failure_of_the_case()
    {
        using var scaling = new ScaleCase();
        using var stop = new CancellationTokenSource();
        stop.Cancel();
        Assert.Throws<OperationCanceledException>(() => CaseRunner.Run(scaling, Quick, null, stop.Token));
    }

    /// <summary>x ← −x over a small array.</summary>
    private sealed class ScaleCase : KernelCase
    {
        private float[] _x = [];

        public bool Wrong { get; init; }

        public double Error { get; init; }

        public int Calls { get; private set; }

        public override string Path => "tiny";

        public override string Name => "scale";

        public override string Description => "Flips the signs of 1,024 numbers.";

        public override string DType => "f32";

        public override long Bytes => 8L * _x.Length;

        public override bool InPlace => true;

        public override CaseArm Ours => new("ours", () =>
        {
            Calls++;
            Flip(1);
        });

        public override IReadOnlyList<CaseArm> BestCandidates => [new("a hundred times", () => Flip(100)), new("once", () => Flip(1))];

        public override CaseArm Published => new("as published", () => Flip(2));

        public override void Prepare(CaseSettings settings)
        {
            if (settings.Backend != "cpu") throw new NotSupportedException($"no {settings.Backend} here");
            _x = [.. Enumerable.Repeat(1f, 1024)];
        }

        public override double Verify() => Wrong ? throw new VerificationException("element 3 is off", 0.5) : Error;

        public override void Dispose() => _x = [];

        private void Flip(int times)
        {
            for (int time = 0; time < times; time++)
                for (int i = 0; i < _x.Length; i++) _x[i] = -_x[i];
        }
    }
}
