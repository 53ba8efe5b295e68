namespace AuxCore.Models;

/// <summary>
/// P A Pᵀ = L Lᵀ of a positive semi-definite matrix with a diagonal of ones, the largest remaining pivot first (LAPACK's <c>pstrf</c> is
/// the same method). It ends where no pivot above the bound is left, so a matrix that is singular to within rounding gives a solution of
/// the rows that matter.
/// </summary>
internal sealed class PivotedCholesky
{
    private readonly double[,] _matrix;
    private readonly double[,] _factor; // row i of L belongs to row _order[i] of A
    private readonly int[] _order;

    public PivotedCholesky(double[,] matrix, double smallestPivot)
    {
        var n = matrix.GetLength(0);
        _matrix = matrix;
        _factor = new double[n, n];
        _order = [.. Enumerable.Range(0, n)];
        double[] left = [.. Enumerable.Range(0, n).Select(i => matrix[i, i])]; // of each diagonal, by row of A
        for (; Rank < n; Rank++)
        {
            var best = Rank;
            for (var i = Rank + 1; i < n; i++)
            {
                if (left[_order[i]] > left[_order[best]])
                    best = i;
            }

            if (!(left[_order[best]] > smallestPivot))
                break;
            Exchange(Rank, best);
            Eliminate(left);
        }
    }

    /// <summary>The rows that were used.</summary>
    public int Rank { get; private set; }

    /// <summary>x with A x = b in the rows that were used, 0 in the others.</summary>
    public double[] Solve(double[] b)
    {
        var y = new double[Rank];
        for (var i = 0; i < Rank; i++)
        {
            y[i] = b[_order[i]];
            for (var j = 0; j < i; j++)
                y[i] -= _factor[i, j] * y[j];
            y[i] /= _factor[i, i];
        }

        var x = new double[b.Length];
        for (var i = Rank - 1; i >= 0; i--)
        {
            for (var j = i + 1; j < Rank; j++)
                y[i] -= _factor[j, i] * y[j];
            y[i] /= _factor[i, i];
            x[_order[i]] = y[i];
        }

        return x;
    }

    /// <summary>‖A‖₁ ‖A⁻¹‖₁ of the rows and columns that were used.</summary>
    public double Condition()
    {
        double norm = 0, inverseNorm = 0;
        for (var k = 0; k < Rank; k++)
        {
            var unit = new double[_order.Length];
            unit[_order[k]] = 1;
            inverseNorm = Math.Max(inverseNorm, Solve(unit).Sum(Math.Abs));
            norm = Math.Max(norm, Enumerable.Range(0, Rank).Sum(i => Math.Abs(_matrix[_order[i], _order[k]])));
        }

        return norm * inverseNorm;
    }

    private void Exchange(int at, int other)
    {
        (_order[at], _order[other]) = (_order[other], _order[at]);
        for (var j = 0; j < at; j++)
            (_factor[at, j], _factor[other, j]) = (_factor[other, j], _factor[at, j]);
    }

    private void Eliminate(double[] left)
    {
        var (k, pivot) = (Rank, Math.Sqrt(left[_order[Rank]]));
        _factor[k, k] = pivot;
        for (var i = k + 1; i < _order.Length; i++)
        {
            var value = _matrix[_order[i], _order[k]];
            for (var j = 0; j < k; j++)
                value -= _factor[i, j] * _factor[k, j];
            _factor[i, k] = value / pivot;
            left[_order[i]] -= _factor[i, k] * _factor[i, k];
        }
    }
}
