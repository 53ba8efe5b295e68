using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

public static partial class SuccessorSolve
{
    private const int PanelColumns = 32; // of right sides: 8 KB for each 32 states, so that a thousand states stay in the cache
    private const long MinimumOperationsPerThread = 4 * 1024 * 1024;

    /// <summary>
    /// LU in place, row by row; then forward and backward substitution, some columns of the right sides at a time, which threads share.
    /// </summary>
    private static unsafe void RunCpu(double[] matrix, Span<double> table, int states)
    {
        var order = Factorise(matrix, states);
        var panels = (states + PanelColumns - 1) / PanelColumns;
        var threads = Math.Min(ThreadTeam.Count((long)states * states * states, MinimumOperationsPerThread), panels);
        var buffers = new double[threads][]; // here, because a thread of the team must not throw
        for (var i = 0; i < threads; i++)
            buffers[i] = new double[states * PanelColumns];
        fixed (double* m = table)
        {
            var address = m;
            ThreadTeam.Run(threads, part =>
            {
                for (var panel = part; panel < panels; panel += threads)
                    Substitute(matrix, order, address, states, panel * PanelColumns, buffers[part]);
            });
        }
    }

    /// <summary>L below the diagonal, U from it on, rows in the order that pivoting gave; that order.</summary>
    private static int[] Factorise(double[] matrix, int states)
    {
        int[] order = [.. Enumerable.Range(0, states)];
        for (var column = 0; column < states; column++)
        {
            var pivot = column;
            for (var row = column + 1; row < states; row++)
            {
                if (Math.Abs(matrix[row * states + column]) > Math.Abs(matrix[pivot * states + column]))
                    pivot = row;
            }

            if (pivot != column)
                Swap(matrix.AsSpan(column * states, states), matrix.AsSpan(pivot * states, states));
            (order[column], order[pivot]) = (order[pivot], order[column]);
            var pivotRow = matrix.AsSpan(column * states, states);
            for (var row = column + 1; row < states; row++)
            {
                ref var factor = ref matrix[row * states + column];
                if (factor == 0)
                    continue;
                factor /= pivotRow[column];
                AddScaled(matrix.AsSpan(row * states + column + 1, states - column - 1), pivotRow[(column + 1)..], -factor);
            }
        }

        return order;
    }

    private static void Swap(Span<double> left, Span<double> right)
    {
        for (var i = 0; i < left.Length; i++)
            (left[i], right[i]) = (right[i], left[i]);
    }

    private static unsafe void Substitute(double[] factors, int[] order, double* table, int states, int first, double[] buffer)
    {
        var columns = Math.Min(PanelColumns, states - first);
        Span<double> Row(int row) => buffer.AsSpan(row * PanelColumns, columns);
        Span<double> Table(int row) => new(table + (long)row * states + first, columns);

        for (var row = 0; row < states; row++)
        {
            Table(order[row]).CopyTo(Row(row));
            for (var k = 0; k < row; k++)
                AddScaled(Row(row), Row(k), -factors[row * states + k]);
        }

        for (var row = states - 1; row >= 0; row--)
        {
            for (var k = row + 1; k < states; k++)
                AddScaled(Row(row), Row(k), -factors[row * states + k]);
            var result = Row(row);
            for (var j = 0; j < columns; j++)
                result[j] /= factors[row * states + row];
        }

        for (var row = 0; row < states; row++)
            Row(row).CopyTo(Table(row));
    }

    /// <summary>target += factor · source, by fused multiply-adds.</summary>
    private static void AddScaled(Span<double> target, ReadOnlySpan<double> source, double factor)
    {
        if (factor == 0)
            return;
        var i = 0;
        var scale = Vector256.Create(factor);
        for (; i <= target.Length - Vector256<double>.Count; i += Vector256<double>.Count)
            Vector256.FusedMultiplyAdd(scale, Vector256.Create(source[i..]), Vector256.Create((ReadOnlySpan<double>)target[i..]))
                .CopyTo(target[i..]);
        for (; i < target.Length; i++)
            target[i] = Math.FusedMultiplyAdd(factor, source[i], target[i]);
    }
}
