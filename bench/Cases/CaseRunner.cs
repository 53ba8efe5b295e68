using AuxCore.Bench.Measurement;

namespace AuxCore.Bench.Cases;

/// <summary>
/// Takes one case through preparation, verification and timing. It reports what goes wrong in the result, so that other cases still run.
/// </summary>
internal static class CaseRunner
{
    private const string OursKey = "ours", PublishedKey = "published", BandwidthKey = "bandwidth";

    /// <summary>
    /// Prepares and verifies the case and, if the result is right, times it against its baselines. The caller disposes the case.
    /// </summary>
    public static CaseResult Run(
        KernelCase kernel, CaseSettings settings, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        CaseResult result = Verify(kernel, settings);
        if (result.Failure is not null) return result;
        cancellation.ThrowIfCancellationRequested();
        return Guarded(result, () => Time(kernel, settings, result, progress, cancellation));
    }

    /// <summary>Prepares the case and compares its result with the reference.</summary>
    public static CaseResult Verify(KernelCase kernel, CaseSettings settings)
    {
        var unprepared = new CaseResult
        {
            Path = kernel.Path, Case = kernel.Name, Backend = settings.Backend, DType = kernel.DType, Threads = settings.Threads, Bytes = 0,
        };
        CaseResult prepared = Guarded(unprepared, () =>
        {
            kernel.Prepare(settings);
            return unprepared with { Bytes = kernel.Bytes };
        });
        return prepared.Failure is not null ? prepared : Guarded(prepared, () =>
        {
            double error = kernel.Verify();
            return double.IsFinite(error)
                ? prepared with { MaxError = error, Verified = true }
                : throw new VerificationException($"the largest error is {error}");
        });
    }

    private static CaseResult Time(
        KernelCase kernel, CaseSettings settings, CaseResult result, IProgress<double>? progress, CancellationToken cancellation)
    {
        IReadOnlyList<CaseArm> candidates = kernel.BestCandidates;
        var arms = new List<TimedArm> { new(OursKey, kernel.Ours.Run) };
        arms.AddRange(candidates.Select((candidate, i) => new TimedArm(CandidateKey(i), candidate.Run)));
        if (kernel.Published is { } published) arms.Add(new(PublishedKey, published.Run));

        using BandwidthProbe? probe = settings.Threads == 1 ? new(kernel.InPlace, kernel.Bytes) : null;
        if (probe is not null) arms.Add(new(BandwidthKey, probe.Run));

        PairedResult timing = PairedTimer.Run(arms, Options(settings), progress, cancellation);
        return result with
        {
            OursUs = timing.Time(OursKey).Scale(1e-3),
            Baselines = Baselines(kernel, candidates, timing),
            GbPerS = kernel.Bytes / timing.Time(OursKey).Median, // bytes a nanosecond
            BandwidthFraction = probe is null
                ? null
                : timing.Ratio(BandwidthKey, OursKey).Median * kernel.Bytes / probe.BytesPerCall,
        };
    }

    private static List<BaselineResult> Baselines(KernelCase kernel, IReadOnlyList<CaseArm> candidates, PairedResult timing)
    {
        int[] fastestFirst = [.. Enumerable.Range(0, candidates.Count).OrderBy(i => timing.Time(CandidateKey(i)).Median)];
        var baselines = new List<BaselineResult>();
        for (int place = 0; place < fastestFirst.Length; place++)
        {
            int i = fastestFirst[place];
            Add(candidates[i].Name, place == 0 ? BaselineKind.Best : BaselineKind.Other, CandidateKey(i));
            if (place == 0) AddPublished();
        }

        if (fastestFirst.Length == 0) AddPublished();
        return baselines;

        void AddPublished()
        {
            if (kernel.Published is { } published) Add(published.Name, BaselineKind.Published, PublishedKey);
        }

        void Add(string name, BaselineKind kind, string key) =>
            baselines.Add(new(name, kind, timing.Time(key).Scale(1e-3), timing.Ratio(key, OursKey)));
    }

    private static TimingOptions Options(CaseSettings settings)
    {
        var options = new TimingOptions { Seed = settings.Seed, UseThreadCpuTime = settings.Threads == 1 };
        return settings.Quick
            ? options with { Rounds = 20, MinRounds = 5, MaxSeconds = 1, WarmUp = TimeSpan.FromMilliseconds(50) }
            : options;
    }

    private static CaseResult Guarded(CaseResult result, Func<CaseResult> step)
    {
        try
        {
            return step();
        }
        catch (VerificationException wrong)
        {
            return result with { Verified = false, MaxError = wrong.MaxError, Failure = wrong.Message };
        }
        catch (Exception error) when (error is not OperationCanceledException)
        {
            return result with { Failure = $"{error.GetType().Name}: {error.Message}" };
        }
    }

    private static string CandidateKey(int index) => $"candidate {index}";
}
