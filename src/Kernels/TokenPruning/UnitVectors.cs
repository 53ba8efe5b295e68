using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Tokens as unit vectors in float32: norms in double, whose sums are of fixed lanes; a vector of norm 0 stays 0.</summary>
internal static unsafe class UnitVectors
{
    /// <summary>The norm of a token; not finite where an element is not, and only there.</summary>
    /// <param name="work">The tokens.</param>
    /// <param name="token">Which one.</param>
    /// <param name="row">Its elements, written: the depth rounded up to <see cref="RowSums.Lanes"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    public static double Norm(in SimilarityWork work, int token, float* row)
    {
        Widen(work, token, 0, work.Depth, row);
        for (var k = work.Depth; k % RowSums.Lanes != 0; k++)
            row[k] = 0;
        var lanes = stackalloc double[RowSums.Lanes];
        new Span<double>(lanes, RowSums.Lanes).Clear();
        RowSums.AddSquares(row, work.Depth, lanes);
        return Math.Sqrt(RowSums.Total(lanes));
    }

    /// <summary>Makes elements those of a vector of length 1; zeros where the norm is 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Normalise(float* elements, int count, double norm)
    {
        var row = new Span<float>(elements, count);
        var scale = 1 / norm;
        if (norm == 0)
            row.Clear();
        else if (float.IsNormal((float)scale))
            TensorPrimitives.Multiply(row, (float)scale, row);
        else
        {
            for (var k = 0; k < count; k++)
                elements[k] = (float)(elements[k] * scale);
        }
    }

    /// <summary>Some elements of some tokens, of length 1, by columns: element k of token i to [k, i]. Zeros for what is spoiled.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Transpose(
        in SimilarityWork work, int first, int from, int depth, double[] norms, bool[] spoiled, float* slice, int step)
    {
        // As many tokens at a time as a cache line of the slice has places; their rows may all want the same few places of the cache.
        const int Together = 16;
        var rows = stackalloc float[Together * depth];
        for (var i = 0; i < norms.Length; i += Together)
        {
            var count = Math.Min(Together, norms.Length - i);
            for (var r = 0; r < count; r++)
            {
                Widen(work, first + i + r, from, depth, rows + r * depth);
                Normalise(rows + r * depth, depth, spoiled[i + r] ? 0 : norms[i + r]);
            }

            for (var k = 0; k < depth; k++)
            {
                var to = slice + (long)k * step + i;
                for (var r = 0; r < count; r++)
                    to[r] = rows[r * depth + k];
            }
        }
    }

    /// <summary>Elements of a token in float32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Widen(in SimilarityWork work, int token, int from, int count, float* row)
    {
        var at = (long)token * work.Depth + from;
        switch (work.DType)
        {
            case DType.Float32:
                new ReadOnlySpan<float>((float*)work.Metric + at, count).CopyTo(new Span<float>(row, count));
                break;
            case DType.BFloat16:
                Widen((BFloat16*)work.Metric + at, count, row);
                break;
            default:
                Widen((Half*)work.Metric + at, count, row);
                break;
        }
    }

    /// <summary>The formula of the references, in double: 0 where a norm is, unless something is not finite.</summary>
    public static double Cosine(in SimilarityWork work, int left, int right)
    {
        var (dot, leftSquares, rightSquares) = (0.0, 0.0, 0.0);
        for (var k = 0; k < work.Depth; k++)
        {
            double a = ReferenceFormat.Widen(work.Metric, work.DType, (long)left * work.Depth + k);
            double b = ReferenceFormat.Widen(work.Metric, work.DType, (long)right * work.Depth + k);
            (dot, leftSquares, rightSquares) = (dot + a * b, leftSquares + a * a, rightSquares + b * b);
        }

        return leftSquares == 0 || rightSquares == 0 ? dot * 0 : dot / (Math.Sqrt(leftSquares) * Math.Sqrt(rightSquares));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Widen<T>(T* source, int count, float* row) where T : unmanaged
    {
        var k = 0;
        for (; k <= count - FloatVector8.Count; k += FloatVector8.Count)
            FloatVector8.Load(source + k).Store(row + k);
        for (; k < count; k++)
            FloatVector1.Load(source + k).Store(row + k);
    }
}
