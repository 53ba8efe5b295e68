using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// The exact successor measure of S states in float64: solves (I − γP) M = E by an LU factorisation with partial pivoting, where E is I for
/// <see cref="Start.Current"/> and P for <see cref="Start.Next"/>, times 1 − γ for a normalised measure. What the sampled and swept tables
/// are held against.
/// </summary>
/// <remarks>Takes about 8/3 · S³ operations and two matrices of S² doubles. Thread-safe.</remarks>
public static partial class SuccessorSolve
{
    internal static readonly OpSupport Support = new(
        nameof(SuccessorSolve),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, "the exact solution is for small tables and for tests: it is computed on the host only"),
        (AuxBackend.Ilgpu, "the exact solution is for small tables and for tests: it is computed on the host only"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Solves.</summary>
    /// <param name="transitions">P of S states.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state counts first.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="measure">M [S, S], row-major.</param>
    /// <param name="backend">Where to run; Auto takes the CPU.</param>
    /// <returns>The largest element of |(I − γP) M − E|: how exact it is.</returns>
    /// <exception cref="ArgumentException">The table is not [S, S]. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The discount or <paramref name="start"/> is out of its range.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static double Run(
        TransitionMatrix transitions, double discount, Start start, bool normalised, Span<double> measure,
        AuxBackend backend = AuxBackend.Auto)
    {
        ArgumentNullException.ThrowIfNull(transitions);
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        var states = transitions.StateCount;
        TensorArguments.RequireLength(nameof(measure), measure.Length, states, states, nameof(measure));
        backend = Support.Resolve(backend, AuxDevice.Host);
        var factors = new double[measure.Length];
        RightSide(transitions, start, SuccessorArguments.Height(discount, normalised), measure);
        for (var s = 0; s < states; s++)
        {
            factors[s * states + s] = 1;
            for (var k = transitions.RowOffsets[s]; k < transitions.RowOffsets[s + 1]; k++)
                factors[s * states + transitions.Columns[k]] -= discount * transitions.Values[k];
        }

        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(factors, measure, states);
                break;
            case AuxBackend.Reference:
                RunReference(factors, measure, states);
                break;
            default:
                throw new BackendUnavailableException(nameof(SuccessorSolve), backend, "it has no implementation there");
        }

        Support.Count(backend);
        return Residual(transitions, discount, start, SuccessorArguments.Height(discount, normalised), measure);
    }

    private static void RightSide(TransitionMatrix transitions, Start start, double height, Span<double> table)
    {
        var states = transitions.StateCount;
        table.Clear();
        for (var s = 0; s < states; s++)
        {
            if (start == Start.Current)
                table[s * states + s] = height;
            for (var k = transitions.RowOffsets[s]; k < transitions.RowOffsets[s + 1] && start == Start.Next; k++)
                table[s * states + transitions.Columns[k]] += height * transitions.Values[k];
        }
    }

    private static double Residual(TransitionMatrix transitions, double discount, Start start, double height, ReadOnlySpan<double> measure)
    {
        var states = transitions.StateCount;
        var residual = new double[measure.Length];
        RightSide(transitions, start, height, residual);
        var largest = 0.0;
        for (var s = 0; s < states; s++)
        {
            var row = residual.AsSpan(s * states, states);
            AddScaled(row, measure.Slice(s * states, states), -1);
            for (var k = transitions.RowOffsets[s]; k < transitions.RowOffsets[s + 1]; k++)
                AddScaled(row, measure.Slice(transitions.Columns[k] * states, states), discount * transitions.Values[k]);
            foreach (var value in row)
                largest = Math.Max(largest, Math.Abs(value)); // which a NaN goes through
        }

        return largest;
    }
}
