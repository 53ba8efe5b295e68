using System.Numerics;
using System.Numerics.Tensors;

namespace AuxCore.Kernels;

/// <summary>
/// The Gram matrices and diagonals of a forward-backward batch, in float64, and the loss that follows from them. Of symmetric matrices the
/// upper triangle is accumulated.
/// </summary>
internal sealed unsafe class FbGrams
{
    private readonly double* _products; // F^e_i · B_i, [E, n]
    private readonly double* _targets; // γ_i M̄_ii, [n]
    private readonly int _dimension;

    /// <param name="scratch">Whose memory it takes.</param>
    /// <param name="work">The batch.</param>
    /// <param name="step">Elements from one row of a matrix to the next.</param>
    /// <param name="withTargets">Whether the matrices of the temporal difference are wanted too, and not only BᵀB.</param>
    public FbGrams(Scratch scratch, in FbWork work, int step, bool withTargets)
    {
        (Step, _dimension) = (step, work.Dimension);
        var matrix = (long)work.Dimension * step;
        var memory = scratch.TakeZeroed<double>(matrix * (withTargets ? 6 : 1));
        Backward = memory;
        if (withTargets)
        {
            Forward = memory + matrix;
            Target = memory + 2 * matrix;
            TargetBackward = memory + 3 * matrix;
            ForwardCross = memory + 4 * matrix;
            BackwardCross = memory + 5 * matrix;
        }

        _products = scratch.Take<double>((work.Heads + 2L) * work.Count);
        _targets = _products + (long)work.Heads * work.Count;
        SquaredNorms = _targets + work.Count;
    }

    public int Step { get; }

    /// <summary>BᵀB, symmetric.</summary>
    public double* Backward { get; }

    /// <summary>Σ_e F^eᵀF^e, symmetric.</summary>
    public double* Forward { get; }

    /// <summary>F̄ᵀD²F̄, symmetric.</summary>
    public double* Target { get; }

    /// <summary>B̄ᵀB̄, symmetric.</summary>
    public double* TargetBackward { get; }

    /// <summary>F̄ᵀD Σ_e F^e.</summary>
    public double* ForwardCross { get; }

    /// <summary>B̄ᵀB.</summary>
    public double* BackwardCross { get; }

    /// <summary>‖B_i‖².</summary>
    public double* SquaredNorms { get; }

    /// <summary>Rows that are widened at a time: those of all inputs together stay in the second-level cache.</summary>
    public static int ChunkRows(int dimension) => dimension <= 128 ? 128 : 64;

    public void SetProduct(in FbWork work, int head, int i, double product) => _products[(long)head * work.Count + i] = product;

    public void SetTarget(int i, double target) => _targets[i] = target;

    /// <summary>(F_i·B_i − γ_i M̄_ii) / N + w / n: what pair (i, i) takes from both gradients.</summary>
    public double DiagonalWeight(in FbWork work, int head, int i) =>
        (_products[(long)head * work.Count + i] - _targets[i]) / work.Pairs + work.Options.DiagonalWeight / work.Count;

    /// <summary>The same of the orthonormality term.</summary>
    public double NormWeight(in FbWork work, int i) =>
        2 * work.Options.OrthonormalityWeight * (SquaredNorms[i] / work.Pairs + 1.0 / work.Count);

    /// <summary>Writes the loss.</summary>
    /// <param name="work">The batch.</param>
    /// <param name="withSquares">Whether the squares of the temporal differences follow from the matrices; else they are there.</param>
    public void WriteLoss(in FbWork work, bool withSquares)
    {
        var (diagonalSquares, diagonal, norms, squaredNorms) = (0.0, 0.0, 0.0, 0.0);
        var metaMotivo = work.Options.Convention == FbConvention.MetaMotivo;
        for (var i = 0; i < work.Count; i++)
        {
            for (var e = 0; e < work.Heads; e++)
            {
                var product = _products[(long)e * work.Count + i];
                var difference = product - _targets[i];
                diagonalSquares += difference * difference;
                diagonal += metaMotivo ? difference : product;
            }

            norms += SquaredNorms[i];
            squaredNorms += SquaredNorms[i] * SquaredNorms[i];
        }

        if (withSquares)
        {
            var all = Inner(Forward, Backward, isSymmetric: true) - 2 * Inner(ForwardCross, BackwardCross, isSymmetric: false)
                + work.Heads * Inner(Target, TargetBackward, isSymmetric: true);
            work.Loss[0] = Math.Max(0, all - diagonalSquares) / (2 * work.Pairs); // NaN stays NaN
        }

        var orthogonal = Math.Max(0, Inner(Backward, Backward, isSymmetric: true) - squaredNorms);
        work.Loss[1] = -work.Options.DiagonalWeight * diagonal / work.Count;
        work.Loss[2] = work.Options.OrthonormalityWeight * orthogonal / (2 * work.Pairs);
        work.Loss[3] = -work.Options.OrthonormalityWeight * norms / work.Count;
    }

    /// <summary>
    /// Fills the lower triangles of the symmetric matrices that gradients use, in squares that fit the cache: a column's elements are far
    /// from each other.
    /// </summary>
    public void Mirror()
    {
        const int Square = 32;
        for (var top = 0; top < _dimension; top += Square)
        {
            for (var left = 0; left <= top; left += Square)
            {
                for (var row = top; row < Math.Min(top + Square, _dimension); row++)
                {
                    for (var column = left; column < Math.Min(left + Square, row); column++)
                    {
                        if (Forward != null)
                            Forward[(long)row * Step + column] = Forward[(long)column * Step + row];
                        Backward[(long)row * Step + column] = Backward[(long)column * Step + row];
                    }
                }
            }
        }
    }

    /// <summary>BᵀB times a factor, in another type.</summary>
    public void CopyBackward<T>(T* destination, int step, double factor) where T : unmanaged, INumberBase<T>
    {
        for (var row = 0; row < _dimension; row++)
        {
            for (var column = 0; column < _dimension; column++)
                destination[(long)row * step + column] = T.CreateTruncating(Backward[(long)row * Step + column] * factor);
        }
    }

    private double Inner(double* left, double* right, bool isSymmetric)
    {
        var (sum, diagonal) = (0.0, 0.0);
        for (var row = 0; row < _dimension; row++)
        {
            var from = isSymmetric ? row + 1 : 0;
            var at = (long)row * Step;
            sum += TensorPrimitives.Dot(
                new ReadOnlySpan<double>(left + at + from, _dimension - from),
                new ReadOnlySpan<double>(right + at + from, _dimension - from));
            diagonal += left[at + row] * right[at + row];
        }

        return isSymmetric ? 2 * sum + diagonal : sum;
    }
}
