using System.Numerics.Tensors;

namespace AuxCore.Kernels;

public static partial class InfoNceLoss
{
    /// <summary>
    /// The formula of the class's summary in double: logits pair by pair, logsumexps of rows and columns, and from both the slope of each
    /// logit, which the chain rule takes to φ_i and ψ_j.
    /// </summary>
    private static unsafe void RunReference(in InfoNceWork work)
    {
        var (n, d, options) = (work.Count, work.Dimension, work.Options);
        var phi = ReferenceRows.Widen(work.Queries, work.DType, 0, (long)n * d);
        var psi = ReferenceRows.Widen(work.Keys, work.DType, 0, (long)n * d);
        var (dPhi, dPsi) = (new double[phi.Length], new double[psi.Length]);
        var (rows, columns, row) = (new double[n], new double[n], new double[n]);
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < n; j++)
                row[j] = options.ExcludePositives && i == j ? double.NegativeInfinity : Logit(Row(phi, i), Row(psi, j), options);
            rows[i] = LogSumExp(row);
        }

        for (var j = 0; j < n && options.IsSymmetric; j++)
        {
            for (var i = 0; i < n; i++)
                row[i] = options.ExcludePositives && i == j ? double.NegativeInfinity : Logit(Row(phi, i), Row(psi, j), options);
            columns[j] = LogSumExp(row);
        }

        var (contrast, penalty, positives) = (0.0, 0.0, options.IsSymmetric ? 2 : 1);
        for (var i = 0; i < n; i++)
        {
            contrast += rows[i] + columns[i] - positives * Logit(Row(phi, i), Row(psi, i), options);
            penalty += options.LogSumExpPenalty * rows[i] * rows[i];
            for (var j = 0; j < n; j++)
            {
                var logit = Logit(Row(phi, i), Row(psi, j), options);
                var slope = 0.0;
                if (i != j || !options.ExcludePositives)
                {
                    slope = Math.Exp(logit - rows[i]) * (1 + 2 * options.LogSumExpPenalty * rows[i]);
                    slope += options.IsSymmetric ? Math.Exp(logit - columns[j]) : 0;
                }

                if (i == j)
                    slope -= positives;
                Differentiate(Row(phi, i), Row(psi, j), slope / n, Row(dPhi, i), Row(dPsi, j), options);
            }
        }

        ReferenceRows.Narrow(dPhi, work.QueryGradient, work.DType, 0);
        ReferenceRows.Narrow(dPsi, work.KeyGradient, work.DType, 0);
        work.Loss[0] = contrast / n;
        work.Loss[1] = penalty / n;

        Span<double> Row(double[] matrix, int at) => matrix.AsSpan(at * d, d);
    }

    private static double Logit(ReadOnlySpan<double> phi, ReadOnlySpan<double> psi, InfoNceOptions options)
    {
        switch (options.Similarity)
        {
            case InfoNceSimilarity.Dot:
                return TensorPrimitives.Dot(phi, psi) / options.Temperature;
            case InfoNceSimilarity.Cosine:
                var norms = TensorPrimitives.Norm(phi) * TensorPrimitives.Norm(psi);
                return norms == 0 ? 0 : TensorPrimitives.Dot(phi, psi) / (norms * options.Temperature);
            case InfoNceSimilarity.NegativeSquaredDistance:
                var distance = TensorPrimitives.Distance(phi, psi);
                return -distance * distance / options.Temperature;
            default:
                var square = TensorPrimitives.Distance(phi, psi);
                return -Math.Sqrt(square * square + options.DistanceOffset) / options.Temperature;
        }
    }

    /// <summary>Adds slope · ∂logit/∂φ and slope · ∂logit/∂ψ.</summary>
    private static void Differentiate(
        ReadOnlySpan<double> phi, ReadOnlySpan<double> psi, double slope, Span<double> dPhi, Span<double> dPsi, InfoNceOptions options)
    {
        slope /= options.Temperature;
        switch (options.Similarity)
        {
            case InfoNceSimilarity.Dot:
                TensorPrimitives.MultiplyAdd(psi, slope, dPhi, dPhi);
                TensorPrimitives.MultiplyAdd(phi, slope, dPsi, dPsi);
                break;
            case InfoNceSimilarity.Cosine:
                // ∂cos/∂φ = (ψ / ‖ψ‖ − cos · φ / ‖φ‖) / ‖φ‖, and likewise of ψ.
                var (phiNorm, psiNorm) = (TensorPrimitives.Norm(phi), TensorPrimitives.Norm(psi));
                if (phiNorm * psiNorm == 0)
                    break;
                var cosine = TensorPrimitives.Dot(phi, psi) / (phiNorm * psiNorm);
                TensorPrimitives.MultiplyAdd(psi, slope / (phiNorm * psiNorm), dPhi, dPhi);
                TensorPrimitives.MultiplyAdd(phi, -slope * cosine / (phiNorm * phiNorm), dPhi, dPhi);
                TensorPrimitives.MultiplyAdd(phi, slope / (phiNorm * psiNorm), dPsi, dPsi);
                TensorPrimitives.MultiplyAdd(psi, -slope * cosine / (psiNorm * psiNorm), dPsi, dPsi);
                break;
            default:
                // Of −‖φ − ψ‖²: 2 (ψ − φ). Of −√(‖φ − ψ‖² + offset): (ψ − φ) / √(…).
                var distance = TensorPrimitives.Distance(phi, psi);
                var root = Math.Sqrt(distance * distance + options.DistanceOffset);
                var weight = options.Similarity == InfoNceSimilarity.NegativeSquaredDistance ? 2 * slope : root == 0 ? 0 : slope / root;
                for (var k = 0; k < phi.Length; k++)
                {
                    dPhi[k] += weight * (psi[k] - phi[k]);
                    dPsi[k] += weight * (phi[k] - psi[k]);
                }

                break;
        }
    }

    private static double LogSumExp(ReadOnlySpan<double> values)
    {
        var (largest, sum) = (TensorPrimitives.Max(values), 0.0);
        foreach (var value in values)
            sum += Math.Exp(value - largest);
        return largest + Math.Log(sum);
    }
}
