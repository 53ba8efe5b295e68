namespace AuxCore.Kernels;

public static partial class SuccessorSweep
{
    /// <summary>M ← E + γ P M, sweep by sweep, on a table in double that is rounded once, at the end.</summary>
    private static unsafe void RunReference(in SuccessorSweepWork work)
    {
        var (matrix, states) = (work.Transitions, work.States);
        var height = SuccessorArguments.Height(work.Discount, work.Normalised);
        var table = new double[states, states];
        for (var s = 0; s < states; s++)
        {
            for (var j = 0; j < states; j++)
                table[s, j] = work.Measure[(long)s * states + j];
        }

        var before = table;
        for (var sweep = 0; sweep < work.Sweeps; sweep++)
        {
            before = (double[,])table.Clone();
            var read = work.Order == SweepOrder.Jacobi ? before : table;
            for (var s = 0; s < states; s++)
            {
                for (var j = 0; j < states; j++)
                {
                    var (expected, counted) = (0.0, work.Start == Start.Current && s == j ? height : 0);
                    for (var k = matrix.RowOffsets[s]; k < matrix.RowOffsets[s + 1]; k++)
                    {
                        expected += matrix.Values[k] * read[matrix.Columns[k], j];
                        if (work.Start == Start.Next && matrix.Columns[k] == j)
                            counted += height * matrix.Values[k];
                    }

                    table[s, j] = counted + work.Discount * expected;
                }
            }
        }

        for (var j = 0; j < states; j++)
        {
            var change = 0.0;
            for (var s = 0; s < states; s++)
            {
                work.Measure[(long)s * states + j] = (float)table[s, j];
                change = Math.Max(change, Math.Abs(table[s, j] - before[s, j])); // which a NaN goes through
            }

            if (work.ColumnChanges != null)
                work.ColumnChanges[j] = (float)change;
        }
    }
}
