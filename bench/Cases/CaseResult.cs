using System.Text.Json.Serialization;
using AuxCore.Bench.Measurement;

namespace AuxCore.Bench.Cases;

/// <summary>
/// What one case gave, as <c>results.json</c> writes it. A kernel that fails its verification is not timed: its figures are null.
/// </summary>
internal sealed record CaseResult
{
    /// <summary>The hot path: <c>ema</c>.</summary>
    public required string Path { get; init; }

    /// <summary>The case's name within its path.</summary>
    public required string Case { get; init; }

    /// <summary>The AuxCore backend that ran.</summary>
    public required string Backend { get; init; }

    /// <summary>The element types.</summary>
    [JsonPropertyName("dtype")]
    public required string DType { get; init; }

    /// <summary>How many threads each implementation was given.</summary>
    public required int Threads { get; init; }

    /// <summary>Microseconds a call; processor time of the thread where <see cref="Threads"/> is 1, else wall time.</summary>
    public Quartiles? OursUs { get; init; }

    /// <summary>The best baseline, then the published one, then the others.</summary>
    public IReadOnlyList<BaselineResult> Baselines { get; init; } = [];

    /// <summary>The bytes that one call must move.</summary>
    public required long Bytes { get; init; }

    /// <summary><see cref="Bytes"/> over the median time.</summary>
    public double? GbPerS { get; init; }

    /// <summary>
    /// The median, over the rounds, of our bandwidth as a fraction of the reference's in the same round (<see cref="BandwidthProbe"/>).
    /// Null for more than one thread, because the reference has one.
    /// </summary>
    public double? BandwidthFraction { get; init; }

    /// <summary>The largest error against the reference, in the unit that the case documents.</summary>
    public double? MaxError { get; init; }

    /// <summary>Whether the result met its tolerance.</summary>
    public bool Verified { get; init; }

    /// <summary>Why the case has no figures; null if nothing went wrong.</summary>
    [JsonIgnore]
    public string? Failure { get; init; }

    /// <summary>The first baseline of a kind, if there is one.</summary>
    public BaselineResult? Baseline(BaselineKind kind) => Baselines.FirstOrDefault(baseline => baseline.Kind == kind);
}

/// <summary>One baseline of a case.</summary>
/// <param name="Name">What it does.</param>
/// <param name="Kind">Its standing.</param>
/// <param name="Us">Microseconds a call.</param>
/// <param name="Speedup">Its time over ours, round by round: above 1, ours is faster.</param>
internal sealed record BaselineResult(string Name, BaselineKind Kind, Quartiles Us, Quartiles Speedup);
