using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class TransitionMatrixTests
{
    [Fact]
    public void Dense_and_sparse_rows_make_the_same_matrix() => Gen.Select(Gen.Int[1, 20], Gen.Int[1, 5], Gen.Int[0, 99]).Sample(
        (states, successors, seed) =>
        {
            var dense = TransitionMatrix.FromDense(Worlds.Random(states, successors, 0.1, seed), states);
            var sparse = TransitionMatrix.FromRows(dense.RowOffsets, dense.Columns, dense.Values);
            return dense.StateCount == states && sparse.StateCount == states && sparse.RowOffsets.SequenceEqual(dense.RowOffsets)
                && sparse.Columns.SequenceEqual(dense.Columns) && sparse.Values.SequenceEqual(dense.Values);
        });

    [Fact]
    public void What_was_given_may_change_afterwards()
    {
        double[] values = [1, 1];
        var matrix = TransitionMatrix.FromRows([0, 1, 2], [1, 0], values);
        values[0] = 5;
        Assert.Equal(1, matrix.Values[0]);
    }

    [Fact]
    public void Rows_that_sum_to_less_than_one_end_sometimes_and_may_be_empty()
    {
        var matrix = TransitionMatrix.FromRows([0, 2, 2], [0, 0], [0.25, 0.25]);
        var measure = new double[4];
        SuccessorSolve.Run(matrix, 0.5, Start.Current, false, measure);
        Assert.Equal([4 / 3.0, 0, 0, 1], measure); // entries of one state add up: 1 / (1 − ½ · ½)
    }

    [Fact]
    public void What_is_no_matrix_of_probabilities_is_refused()
    {
        void Refused<TException>(string text, Action call) where TException : ArgumentException =>
            Assert.Contains(text, Assert.Throws<TException>(call).Message, StringComparison.Ordinal);

        Refused<ArgumentOutOfRangeException>("states must be at least 1", () => TransitionMatrix.FromDense([], 0));
        Refused<ArgumentException>("probabilities: 3 elements do not match shape [2, 2]", () => TransitionMatrix.FromDense([1, 0, 1], 2));
        Refused<ArgumentException>("probabilities: row 1 has the probability -0.5", () => TransitionMatrix.FromDense([1, 0, 1, -0.5], 2));
        Refused<ArgumentException>("probabilities: row 0 has the probability NaN",
            () => TransitionMatrix.FromDense([double.NaN, 0, 1, 0], 2));
        Refused<ArgumentException>("probabilities: row 1 sums to 1.5, which is more than 1", () =>
            TransitionMatrix.FromDense([1, 0, 1, 0.5], 2));
        Refused<ArgumentException>("probabilities: row 0 sums to", () => TransitionMatrix.FromDense([double.PositiveInfinity], 1));
        TransitionMatrix.FromDense([1 + 1e-7], 1); // float32's rounding is forgiven

        Refused<ArgumentOutOfRangeException>("states must be at least 1", () => TransitionMatrix.FromRows([], [], []));
        Refused<ArgumentOutOfRangeException>("states must be at least 1", () => TransitionMatrix.FromRows([0], [], []));
        Refused<ArgumentException>("values: 1 elements do not match shape [2]", () => TransitionMatrix.FromRows([0, 2], [0, 0], [1]));
        Refused<ArgumentException>("rowOffsets: from 1 to 2, not from 0 to 2", () => TransitionMatrix.FromRows([1, 2], [0, 0], [0.5, 0.5]));
        Refused<ArgumentException>("rowOffsets: from 0 to 1, not from 0 to 2", () => TransitionMatrix.FromRows([0, 1], [0, 0], [0.5, 0.5]));
        Refused<ArgumentException>("rowOffsets[2] is 1, less", () => TransitionMatrix.FromRows([0, 2, 1, 2], [0, 0], [0.5, 0.5]));
        Refused<ArgumentOutOfRangeException>("columns[1] is not within 0 and 1", () =>
            TransitionMatrix.FromRows([0, 1, 2], [0, 2], [1, 1]));
        Refused<ArgumentException>("values: row 1 sums to 1.5", () => TransitionMatrix.FromRows([0, 1, 2], [0, 1], [1, 1.5]));
    }
}
