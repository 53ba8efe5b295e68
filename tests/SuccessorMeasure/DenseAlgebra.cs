namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>Small dense linear algebra in double, plainly, for tests: [rows, columns] matrices.</summary>
internal static class DenseAlgebra
{
    public static double[,] Multiply(double[,] left, double[,] right)
    {
        var (rows, depth, columns) = (left.GetLength(0), left.GetLength(1), right.GetLength(1));
        var product = new double[rows, columns];
        for (var i = 0; i < rows; i++)
        {
            for (var k = 0; k < depth; k++)
            {
                for (var j = 0; j < columns; j++)
                    product[i, j] += left[i, k] * right[k, j];
            }
        }

        return product;
    }

    public static double[,] Transpose(double[,] matrix)
    {
        var transposed = new double[matrix.GetLength(1), matrix.GetLength(0)];
        for (var i = 0; i < transposed.GetLength(0); i++)
        {
            for (var j = 0; j < transposed.GetLength(1); j++)
                transposed[i, j] = matrix[j, i];
        }

        return transposed;
    }

    /// <summary>X with matrix · X = right, by elimination with pivoting.</summary>
    public static double[,] Solve(double[,] matrix, double[,] right)
    {
        var (n, columns) = (matrix.GetLength(0), right.GetLength(1));
        var (a, x) = ((double[,])matrix.Clone(), (double[,])right.Clone());
        for (var c = 0; c < n; c++)
        {
            var pivot = Enumerable.Range(c, n - c).MaxBy(row => Math.Abs(a[row, c]));
            for (var j = 0; j < n; j++)
                (a[c, j], a[pivot, j]) = (a[pivot, j], a[c, j]);
            for (var j = 0; j < columns; j++)
                (x[c, j], x[pivot, j]) = (x[pivot, j], x[c, j]);
            for (var row = 0; row < n; row++)
            {
                var factor = row == c ? 0 : a[row, c] / a[c, c];
                for (var j = 0; j < n && factor != 0; j++)
                    a[row, j] -= factor * a[c, j];
                for (var j = 0; j < columns && factor != 0; j++)
                    x[row, j] -= factor * x[c, j];
            }
        }

        for (var row = 0; row < n; row++)
        {
            for (var j = 0; j < columns; j++)
                x[row, j] /= a[row, row];
        }

        return x;
    }

    /// <summary>An orthonormal basis of the columns' span, by Gram and Schmidt's process done twice.</summary>
    public static double[,] Orthonormal(double[,] matrix)
    {
        var (rows, columns) = (matrix.GetLength(0), matrix.GetLength(1));
        var basis = (double[,])matrix.Clone();
        for (var j = 0; j < columns; j++)
        {
            for (var again = 0; again < 2; again++)
            {
                for (var other = 0; other < j; other++)
                {
                    var along = Dot(basis, j, other);
                    for (var i = 0; i < rows; i++)
                        basis[i, j] -= along * basis[i, other];
                }
            }

            var length = Math.Sqrt(Dot(basis, j, j));
            for (var i = 0; i < rows; i++)
                basis[i, j] /= length;
        }

        return basis;
    }

    /// <summary>The largest angle between two subspaces of equal dimension, in degrees; the bases are orthonormal.</summary>
    public static double LargestAngle(double[,] left, double[,] right)
    {
        // The sines are the singular values of what is left of one basis outside of the other: exact also where they are small.
        var inside = Multiply(left, Multiply(Transpose(left), right));
        var outside = (double[,])right.Clone();
        for (var i = 0; i < outside.GetLength(0); i++)
        {
            for (var j = 0; j < outside.GetLength(1); j++)
                outside[i, j] -= inside[i, j];
        }

        var (values, _) = SymmetricEigen(Multiply(Transpose(outside), outside));
        return Math.Asin(Math.Min(1, Math.Sqrt(Math.Max(0, values[0])))) * 180 / Math.PI;
    }

    /// <summary>Eigenvalues of a symmetric matrix, the largest first, and their eigenvectors as columns; Jacobi's rotations.</summary>
    public static (double[] Values, double[,] Vectors) SymmetricEigen(double[,] matrix)
    {
        var n = matrix.GetLength(0);
        var a = (double[,])matrix.Clone();
        var v = new double[n, n];
        for (var i = 0; i < n; i++)
            v[i, i] = 1;
        for (var sweep = 0; sweep < 60; sweep++)
        {
            var off = 0.0;
            for (var p = 0; p < n; p++)
            {
                for (var q = p + 1; q < n; q++)
                {
                    off += a[p, q] * a[p, q];
                    Rotate(a, v, p, q);
                }
            }

            if (off < 1e-28)
                break;
        }

        int[] order = [.. Enumerable.Range(0, n).OrderByDescending(i => a[i, i])];
        var vectors = new double[n, n];
        for (var j = 0; j < n; j++)
        {
            for (var i = 0; i < n; i++)
                vectors[i, j] = v[i, order[j]];
        }

        return ([.. order.Select(i => a[i, i])], vectors);
    }

    public static double[,] FirstColumns(double[,] matrix, int count)
    {
        var first = new double[matrix.GetLength(0), count];
        for (var i = 0; i < first.GetLength(0); i++)
        {
            for (var j = 0; j < count; j++)
                first[i, j] = matrix[i, j];
        }

        return first;
    }

    public static double[,] Square(double[] rowMajor)
    {
        var n = (int)Math.Sqrt(rowMajor.Length);
        var matrix = new double[n, n];
        Buffer.BlockCopy(rowMajor, 0, matrix, 0, rowMajor.Length * sizeof(double));
        return matrix;
    }

    private static void Rotate(double[,] a, double[,] v, int p, int q)
    {
        if (a[p, q] == 0)
            return;
        var theta = (a[q, q] - a[p, p]) / (2 * a[p, q]);
        var t = Math.CopySign(1, theta) / (Math.Abs(theta) + Math.Sqrt(theta * theta + 1));
        var c = 1 / Math.Sqrt(t * t + 1);
        var s = t * c;
        var n = a.GetLength(0);
        for (var k = 0; k < n; k++)
            (a[k, p], a[k, q]) = (c * a[k, p] - s * a[k, q], s * a[k, p] + c * a[k, q]);
        for (var k = 0; k < n; k++)
            (a[p, k], a[q, k]) = (c * a[p, k] - s * a[q, k], s * a[p, k] + c * a[q, k]);
        for (var k = 0; k < n; k++)
            (v[k, p], v[k, q]) = (c * v[k, p] - s * v[k, q], s * v[k, p] + c * v[k, q]);
    }

    private static double Dot(double[,] matrix, int left, int right)
    {
        var sum = 0.0;
        for (var i = 0; i < matrix.GetLength(0); i++)
            sum += matrix[i, left] * matrix[i, right];
        return sum;
    }
}
