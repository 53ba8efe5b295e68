namespace AuxCore.Kernels;

public static partial class TabularTd
{
    /// <summary>
    /// The update of the class's summary, transition by transition, on a table in double that is rounded once, at the end.
    /// </summary>
    private static unsafe void RunReference(in TabularTdWork work)
    {
        var (states, height) = (work.States, SuccessorArguments.Height(work.Discount, work.Normalised));
        var table = new double[(long)states * states];
        for (var i = 0L; i < table.LongLength; i++)
            table[i] = work.Measure[i];
        var read = work.Order == TransitionOrder.Snapshot ? (double[])table.Clone() : table;

        for (var i = 0; i < work.Transitions; i++)
        {
            var (row, nextRow) = ((long)work.Current[i] * states, (long)work.Next[i] * states);
            for (var j = 0; j < states; j++)
            {
                var target = (j == work.Counted(i) ? height : 0) + (work.Done[i] != 0 ? 0 : work.Discount * read[nextRow + j]);
                table[row + j] += work.StepSize * (target - table[row + j]);
            }
        }

        for (var i = 0L; i < table.LongLength; i++)
            work.Measure[i] = (float)table[i];
    }
}
