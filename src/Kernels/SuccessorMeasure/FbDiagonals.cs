namespace AuxCore.Kernels;

/// <summary>
/// What the tiled form of <see cref="ForwardBackwardLoss"/> still takes from rows alone, in float64: the diagonals of its n × n matrices,
/// and the orthonormality term, which is bilinear whatever the target.
/// </summary>
internal sealed unsafe class FbDiagonals<TIn, TDouble>
    where TIn : unmanaged
    where TDouble : struct, ILanes<TDouble, double>
{
    public FbDiagonals(Scratch scratch, in FbWork work)
    {
        var (n, d) = (work.Count, work.Dimension);
        var step = BlockedProduct<double, TDouble>.RowStep(d);
        Grams = new FbGrams(scratch, work, step, withTargets: false);
        var chunkRows = FbGrams.ChunkRows(d);
        var b = scratch.Take<double>((long)chunkRows * step);
        var other = scratch.Take<double>(step);
        var bBar = scratch.Take<double>(step);
        var targets = stackalloc double[work.Heads];
        for (var from = 0; from < n; from += chunkRows)
        {
            var rows = Math.Min(chunkRows, n - from);
            for (var row = 0; row < rows; row++)
            {
                var i = from + row;
                var backward = b + (long)row * step;
                Rows.Copy((TIn*)work.Backward + (long)i * d, backward, d, step);
                Rows.Copy((TIn*)work.TargetBackward + (long)i * d, bBar, d, step);
                Grams.SquaredNorms[i] = FbLanes<double, TDouble>.Dot(backward, backward, step);
                for (var e = 0; e < work.Heads; e++)
                {
                    Rows.Copy((TIn*)work.Forward + ((long)e * n + i) * d, other, d, step);
                    Grams.SetProduct(work, e, i, FbLanes<double, TDouble>.Dot(other, backward, step));
                    Rows.Copy((TIn*)work.TargetForward + ((long)e * n + i) * d, other, d, step);
                    targets[e] = FbLanes<double, TDouble>.Dot(other, bBar, step);
                }

                var discount = work.DiscountOf(i);
                FbLanes<double, Lanes1<double>>.Combine(targets, 1, work.Heads, work.Options).Store(targets);
                Grams.SetTarget(i, discount == 0 ? 0 : discount * targets[0]);
            }

            BlockedProduct<double, TDouble>.AddGram(d, rows, b, step, Grams.Backward, step, RowShare.Whole);
        }

        Grams.Mirror();
    }

    public FbGrams Grams { get; }
}
