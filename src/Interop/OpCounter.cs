using System.Diagnostics.Metrics;

namespace AuxCore.Interop;

/// <summary>
/// How often one op ran on each backend: what <see cref="AuxRuntime.Describe"/> prints and the meter <c>AuxCore</c> publishes.
/// </summary>
internal sealed class OpCounter
{
    private static readonly int BackendCount = Enum.GetValues<AuxBackend>().Length;
    private static readonly List<OpCounter> Counters = [];
    private static readonly Meter Meter = new("AuxCore");

    // Observable: an op's hot path pays one increment, and the meter's listeners, if any, pay for the rest.
    private static readonly ObservableCounter<long> Instrument =
        Meter.CreateObservableCounter("auxcore.op.calls", Measure, unit: "{call}", description: "Calls of an op, by backend.");

    private readonly string _op;
    private readonly long[] _calls = new long[BackendCount];

    public OpCounter(string op)
    {
        _op = op;
        lock (Counters)
            Counters.Add(this);
    }

    public void Add(AuxBackend backend) => Interlocked.Increment(ref _calls[(int)backend]);

    /// <summary>Every op and backend that ran at least once.</summary>
    public static IReadOnlyList<(string Op, AuxBackend Backend, long Calls)> Snapshot()
    {
        _ = Instrument;
        lock (Counters)
        {
            return [.. from counter in Counters
                       from backend in Enum.GetValues<AuxBackend>()
                       let calls = Interlocked.Read(ref counter._calls[(int)backend])
                       where calls > 0
                       orderby counter._op, backend
                       select (counter._op, backend, calls)];
        }
    }

    private static IEnumerable<Measurement<long>> Measure() =>
        from row in Snapshot()
        select new Measurement<long>(row.Calls, new KeyValuePair<string, object?>("op", row.Op), new("backend", row.Backend.ToString()));
}
