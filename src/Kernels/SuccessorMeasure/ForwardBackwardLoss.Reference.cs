using System.Numerics.Tensors;

namespace AuxCore.Kernels;

public static partial class ForwardBackwardLoss
{
    /// <summary>
    /// The formula of the class's summary in double, pair by pair, with the derivative of each term written down where the term is. All
    /// forms are this one here.
    /// </summary>
    private static unsafe void RunReference(in FbWork work)
    {
        var (heads, n, d) = (work.Heads, work.Count, work.Dimension);
        var options = work.Options;
        var elements = (long)n * d;
        double[][] f = new double[heads][], fBar = new double[heads][];
        for (var e = 0; e < heads; e++)
        {
            f[e] = ReferenceRows.Widen(work.Forward, work.DType, e * elements, elements);
            fBar[e] = ReferenceRows.Widen(work.TargetForward, work.DType, e * elements, elements);
        }

        var b = ReferenceRows.Widen(work.Backward, work.DType, 0, elements);
        var bBar = ReferenceRows.Widen(work.TargetBackward, work.DType, 0, elements);
        double[][] df = [.. f.Select(head => new double[head.Length])];
        var db = new double[b.Length];

        var (squares, diagonal, orthogonal, norms) = (0.0, 0.0, 0.0, 0.0);
        var targets = new double[heads];
        for (var i = 0; i < n; i++)
        {
            var discount = work.DiscountOf(i);
            for (var j = 0; j < n; j++)
            {
                for (var e = 0; e < heads; e++)
                    targets[e] = discount == 0 ? 0 : TensorPrimitives.Dot<double>(Row(fBar[e], i), Row(bBar, j));
                var target = discount * Combine(targets, options);
                for (var e = 0; e < heads; e++)
                {
                    var m = TensorPrimitives.Dot<double>(Row(f[e], i), Row(b, j));
                    if (i != j)
                    {
                        squares += (m - target) * (m - target);
                        Differentiate(e, i, j, (m - target) / work.Pairs);
                    }
                    else
                    {
                        diagonal += options.Convention == FbConvention.MetaMotivo ? m - target : m;
                        Differentiate(e, i, j, -options.DiagonalWeight / n);
                    }
                }

                // B_i · B_j depends on both: each pair i ≠ j is met twice, and each B twice in the diagonal's ‖B‖².
                var c = TensorPrimitives.Dot<double>(Row(b, i), Row(b, j));
                if (i != j)
                    orthogonal += c * c;
                else
                    norms += c;
                var weight = options.OrthonormalityWeight * (i != j ? 2 * c / work.Pairs : -2.0 / n);
                TensorPrimitives.MultiplyAdd(Row(b, j), weight, Row(db, i), Row(db, i));
            }
        }

        for (var e = 0; e < heads; e++)
            ReferenceRows.Narrow(df[e], work.ForwardGradient, work.DType, e * elements);
        ReferenceRows.Narrow(db, work.BackwardGradient, work.DType, 0);
        work.Loss[0] = squares / (2 * work.Pairs);
        work.Loss[1] = -options.DiagonalWeight * diagonal / n;
        work.Loss[2] = options.OrthonormalityWeight * orthogonal / (2 * work.Pairs);
        work.Loss[3] = -options.OrthonormalityWeight * norms / n;

        Span<double> Row(double[] matrix, int row) => matrix.AsSpan(row * d, d);

        // ∂loss/∂(F_i·B_j) = weight, so F_i gets weight · B_j and B_j gets weight · F_i.
        void Differentiate(int e, int i, int j, double weight)
        {
            TensorPrimitives.MultiplyAdd(Row(b, j), weight, Row(df[e], i), Row(df[e], i));
            TensorPrimitives.MultiplyAdd(Row(f[e], i), weight, Row(db, j), Row(db, j));
        }
    }

    private static double Combine(double[] targets, FbOptions options)
    {
        if (options.Target == FbTarget.Minimum)
            return TensorPrimitives.Min<double>(targets);
        var mean = targets.Sum() / targets.Length;
        return options.TargetIsMean ? mean : mean - options.Penalty * Disagreement(targets);
    }

    private static double Disagreement(double[] targets)
    {
        var (sum, pairs) = (0.0, 0);
        for (var e = 0; e < targets.Length; e++)
        {
            for (var other = 0; other < e; other++, pairs++)
                sum += Math.Abs(targets[e] - targets[other]);
        }

        return pairs == 0 ? 0 : sum / pairs;
    }
}
