namespace AuxCore.Kernels;

public static partial class SuccessorSolve
{
    /// <summary>Gauss and Jordan's elimination with partial pivoting, element by element.</summary>
    private static void RunReference(Span<double> matrix, Span<double> table, int states)
    {
        for (var column = 0; column < states; column++)
        {
            var pivot = column;
            for (var row = column + 1; row < states; row++)
            {
                if (Math.Abs(matrix[row * states + column]) > Math.Abs(matrix[pivot * states + column]))
                    pivot = row;
            }

            for (var j = 0; j < states; j++)
            {
                (matrix[column * states + j], matrix[pivot * states + j]) = (matrix[pivot * states + j], matrix[column * states + j]);
                (table[column * states + j], table[pivot * states + j]) = (table[pivot * states + j], table[column * states + j]);
            }

            for (var row = 0; row < states; row++)
            {
                var factor = row == column ? 0 : matrix[row * states + column] / matrix[column * states + column];
                for (var j = 0; j < states && factor != 0; j++)
                {
                    matrix[row * states + j] -= factor * matrix[column * states + j];
                    table[row * states + j] -= factor * table[column * states + j];
                }
            }
        }

        for (var row = 0; row < states; row++)
        {
            for (var j = 0; j < states; j++)
                table[row * states + j] /= matrix[row * states + row];
        }
    }
}
