using System.Numerics.Tensors;

namespace AuxCore.Models;

/// <summary>
/// Clusters around density peaks (Rodriguez and Laio 2014; density from the nearest neighbours: Du, Ding and Jia 2016): a centre is a point
/// of high density that is far from all points of higher density.
/// </summary>
internal static class DensityPeaks
{
    /// <summary>The centre of each point's cluster. Among equals the lower index is denser, or comes first.</summary>
    /// <param name="points">[n, width], row-major.</param>
    /// <param name="width">Elements of a point.</param>
    /// <param name="clusters">How many, within 1 and n; also the neighbours that density is taken from, a point among its own.</param>
    /// <returns>[n]: an index of a point; a centre's is its own.</returns>
    public static int[] Cluster(ReadOnlySpan<float> points, int width, int clusters)
    {
        var n = points.Length / width;
        var squares = new double[n, n];
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < i; j++)
            {
                double distance = TensorPrimitives.Distance(points.Slice(i * width, width), points.Slice(j * width, width));
                squares[i, j] = squares[j, i] = distance * distance / width;
            }
        }

        double[] density = [.. Enumerable.Range(0, n).Select(i => Math.Exp(-Row(squares, i).Order().Take(clusters).Average()))];
        var farthest = Math.Sqrt(n == 0 ? 0 : squares.Cast<double>().Max());
        var weight = new double[n];
        for (var i = 0; i < n; i++)
        {
            var nearest = farthest; // of the densest point
            for (var j = 0; j < n; j++)
            {
                if (density[j] > density[i] || (density[j] == density[i] && j < i))
                    nearest = Math.Min(nearest, Math.Sqrt(squares[i, j]));
            }

            weight[i] = nearest * density[i];
        }

        int[] centres = [.. Enumerable.Range(0, n).OrderByDescending(i => weight[i]).Take(clusters).Order()];
        var assigned = new int[n];
        for (var i = 0; i < n; i++)
            assigned[i] = centres.Contains(i) ? i : centres.MinBy(centre => squares[i, centre]);
        return assigned;
    }

    private static IEnumerable<double> Row(double[,] squares, int i) =>
        Enumerable.Range(0, squares.GetLength(1)).Select(j => squares[i, j]);
}
