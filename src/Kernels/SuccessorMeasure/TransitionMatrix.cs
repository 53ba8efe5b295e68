using System.Globalization;

namespace AuxCore.Kernels;

/// <summary>
/// P, the matrix of transition probabilities of S states under a policy, sparse by rows. Rows sum to at most 1; what is missing is the
/// probability to end there. Checked when it is made, and then immutable.
/// </summary>
public sealed class TransitionMatrix
{
    private const double SumSlack = 1e-6; // probabilities that were computed in float32 sum to a little more than 1 at times

    private readonly int[] _rowOffsets;
    private readonly int[] _columns;
    private readonly double[] _values;

    private TransitionMatrix(int[] rowOffsets, int[] columns, double[] values)
    {
        (_rowOffsets, _columns, _values) = (rowOffsets, columns, values);
        NarrowValues = [.. values.Select(value => (float)value)];
    }

    /// <summary>Makes one of a dense matrix.</summary>
    /// <param name="probabilities">[S, S], row-major: row s holds the probabilities of the states after s.</param>
    /// <param name="states">S.</param>
    /// <exception cref="ArgumentException">
    /// Another length, a negative probability, a NaN, or a row whose sum exceeds 1 (by more than 1e-6); the message names the row.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">S is below 1.</exception>
    public static TransitionMatrix FromDense(ReadOnlySpan<double> probabilities, int states)
    {
        TensorArguments.RequireAtLeastOne(nameof(states), states);
        TensorArguments.RequireLength(nameof(probabilities), probabilities.Length, states, states, nameof(probabilities));
        var offsets = new int[states + 1];
        List<int> columns = [];
        List<double> values = [];
        for (var s = 0; s < states; s++)
        {
            for (var next = 0; next < states; next++)
            {
                if (probabilities[s * states + next] is var value && value == 0)
                    continue;
                columns.Add(next);
                values.Add(value);
            }

            offsets[s + 1] = columns.Count;
        }

        var matrix = new TransitionMatrix(offsets, [.. columns], [.. values]);
        matrix.CheckProbabilities(nameof(probabilities));
        return matrix;
    }

    /// <summary>Makes one of compressed sparse rows.</summary>
    /// <param name="rowOffsets">[S + 1]: row s has the entries from rowOffsets[s] up to rowOffsets[s + 1]; the first is 0.</param>
    /// <param name="columns">The state of each entry, in any order within a row; entries of one state add up.</param>
    /// <param name="values">The probability of each entry.</param>
    /// <exception cref="ArgumentException">
    /// Offsets that decrease or do not fit the entries, other lengths, a negative probability, a NaN, or a row whose sum exceeds 1 (by more
    /// than 1e-6).
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">S is below 1, or a state is out of range.</exception>
    public static TransitionMatrix FromRows(ReadOnlySpan<int> rowOffsets, ReadOnlySpan<int> columns, ReadOnlySpan<double> values)
    {
        TensorArguments.RequireAtLeastOne("states", rowOffsets.Length - 1L);
        TensorArguments.RequireLength(nameof(values), values.Length, columns.Length, nameof(values));
        if (rowOffsets[0] != 0 || rowOffsets[^1] != columns.Length)
            throw new ArgumentException(
                $"rowOffsets: from {rowOffsets[0]} to {rowOffsets[^1]}, not from 0 to {columns.Length}, the number of entries",
                nameof(rowOffsets));
        for (var s = 1; s < rowOffsets.Length; s++)
        {
            if (rowOffsets[s] < rowOffsets[s - 1])
                throw new ArgumentException($"rowOffsets[{s}] is {rowOffsets[s]}, less than the one before", nameof(rowOffsets));
        }

        TensorArguments.RequireIndices(columns, rowOffsets.Length - 1, nameof(columns));
        var matrix = new TransitionMatrix(rowOffsets.ToArray(), columns.ToArray(), values.ToArray());
        matrix.CheckProbabilities(nameof(values));
        return matrix;
    }

    /// <summary>S.</summary>
    public int StateCount => _rowOffsets.Length - 1;

    /// <summary>[S + 1]: where each row's entries begin.</summary>
    public ReadOnlySpan<int> RowOffsets => _rowOffsets;

    /// <summary>The state of each entry.</summary>
    public ReadOnlySpan<int> Columns => _columns;

    /// <summary>The probability of each entry.</summary>
    public ReadOnlySpan<double> Values => _values;

    /// <summary>The probabilities, rounded to float32.</summary>
    internal float[] NarrowValues { get; }

    private void CheckProbabilities(string parameter)
    {
        for (var s = 0; s < StateCount; s++)
        {
            var sum = 0.0;
            for (var k = _rowOffsets[s]; k < _rowOffsets[s + 1]; k++)
            {
                if (!(_values[k] >= 0)) // also catches NaN
                    throw new ArgumentException(
                        string.Create(CultureInfo.InvariantCulture, $"{parameter}: row {s} has the probability {_values[k]}"), parameter);
                sum += _values[k];
            }

            if (sum > 1 + SumSlack)
                throw new ArgumentException(
                    string.Create(CultureInfo.InvariantCulture, $"{parameter}: row {s} sums to {sum}, which is more than 1"), parameter);
        }
    }
}
