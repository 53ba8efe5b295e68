using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>A forward-backward batch in double, its gradients by the textbook's n × n matrices, and runs of the op on it.</summary>
internal sealed class FbBatch(FbShape shape)
{
    public FbShape Shape => shape;

    public double[] Forward { get; } = new double[(long)shape.Heads * shape.Count * shape.Dimension];

    public double[] Backward { get; } = new double[(long)shape.Count * shape.Dimension];

    public double[] TargetForward { get; } = new double[(long)shape.Heads * shape.Count * shape.Dimension];

    public double[] TargetBackward { get; } = new double[(long)shape.Count * shape.Dimension];

    public bool[] Done { get; } = new bool[shape.Count];

    /// <summary>Values that float32 holds, so that every dtype but bfloat16 sees the same ones.</summary>
    public static FbBatch Random(FbShape shape, int seed)
    {
        var random = new Random(seed);
        var batch = new FbBatch(shape);
        foreach (var values in (double[][])[batch.Forward, batch.Backward, batch.TargetForward, batch.TargetBackward])
        {
            for (var i = 0; i < values.Length; i++)
                values[i] = (float)Normal(random);
        }

        for (var i = 0; i < shape.Count; i++)
            batch.Done[i] = random.Next(5) == 0;
        return batch;
    }

    /// <summary>A batch near convergence: temporal differences are <paramref name="ratio"/> times the targets.</summary>
    public static FbBatch NearConvergence(FbShape shape, double ratio, double discount, int seed)
    {
        var batch = Random(shape, seed);
        var random = new Random(seed + 1);
        var (heads, n, d) = shape;
        Array.Copy(batch.TargetBackward, batch.Backward, n * d);
        for (var i = 0; i < n * d; i++)
        {
            var mean = Enumerable.Range(0, heads).Average(e => batch.TargetForward[e * n * d + i]);
            var target = batch.Done[i / d] ? 0 : discount * mean;
            for (var e = 0; e < heads; e++)
                batch.Forward[e * n * d + i] = (float)(target + ratio * Normal(random));
        }

        return batch;
    }

    public double DiscountOf(int i, FbOptions options) => Done[i] ? 0 : options.Discount;

    /// <summary>γ_i M̄_ij by its definition.</summary>
    public double Target(int i, int j, FbOptions options)
    {
        if (Done[i])
            return 0;
        double[] heads = [.. Enumerable.Range(0, shape.Heads).Select(e => Dot(TargetForward, e * shape.Count + i, TargetBackward, j))];
        var pairs = from first in heads.Index()
                    from second in heads.Index()
                    where first.Index < second.Index
                    select Math.Abs(first.Item - second.Item);
        return options.Discount * options.Target switch
        {
            FbTarget.Mean => heads.Average(),
            FbTarget.Minimum => heads.Min(),
            _ => heads.Average() - options.Penalty * pairs.DefaultIfEmpty().Average(),
        };
    }

    public double Dot(double[] left, int i, double[] right, int j)
    {
        var sum = 0.0;
        for (var k = 0; k < shape.Dimension; k++)
            sum += left[i * shape.Dimension + k] * right[j * shape.Dimension + k];
        return sum;
    }

    /// <summary>Loss and gradients as the paper writes them.</summary>
    public FbResult Formula(FbOptions options)
    {
        var (heads, n, d) = shape;
        var (pairs, result) = (n * (n - 1.0), new FbResult(shape));
        var (offDiagonal, diagonal, orthogonal, norms) = (0.0, 0.0, 0.0, 0.0);
        var scale = options.Convention == FbConvention.ControllableAgent ? 2 * options.Orthonormality : options.Orthonormality;
        var weight = options.Normalised ? 1 - options.Discount : 1;
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < n; j++)
            {
                var target = Target(i, j, options);
                for (var e = 0; e < heads; e++)
                {
                    var difference = Dot(Forward, e * n + i, Backward, j) - target;
                    if (i != j)
                        offDiagonal += difference * difference / (2 * pairs);
                    else
                        diagonal -= weight * (options.Convention == FbConvention.MetaMotivo ? difference : difference + target) / n;
                    var slope = i != j ? difference / pairs : -weight / n;
                    for (var k = 0; k < d; k++)
                    {
                        result.ForwardGradient[(e * n + i) * d + k] += slope * Backward[j * d + k];
                        result.BackwardGradient[j * d + k] += slope * Forward[(e * n + i) * d + k];
                    }
                }

                var covariance = Dot(Backward, i, Backward, j);
                if (i != j)
                    orthogonal += scale * covariance * covariance / (2 * pairs);
                else
                    norms -= scale * covariance / n;
                for (var k = 0; k < d; k++)
                    result.BackwardGradient[i * d + k] += scale * (i != j ? 2 * covariance / pairs : -2.0 / n) * Backward[j * d + k];
            }
        }

        return result with { Terms = new(offDiagonal, diagonal, orthogonal, norms) };
    }

    public FbResult Run(FbOptions options, DType dtype, AuxBackend backend = AuxBackend.Auto)
    {
        var result = new FbResult(shape);
        FbTerms terms;
        if (dtype == DType.Float64)
        {
            terms = ForwardBackwardLoss.Run(
                Forward, Backward, TargetForward, TargetBackward, Done, shape, options, result.ForwardGradient, result.BackwardGradient,
                backend);
            return result with { Terms = terms };
        }

        var (forwardGradient, backwardGradient) = (new float[Forward.Length], new float[Backward.Length]);
        terms = dtype == DType.Float32
            ? ForwardBackwardLoss.Run(
                Floats(Forward), Floats(Backward), Floats(TargetForward), Floats(TargetBackward), Done, shape, options, forwardGradient,
                backwardGradient, backend)
            : ForwardBackwardLoss.Run(
                Narrow(Forward), Narrow(Backward), Narrow(TargetForward), Narrow(TargetBackward), Done, shape, options, forwardGradient,
                backwardGradient, backend);
        forwardGradient.Select(value => (double)value).ToArray().CopyTo(result.ForwardGradient, 0);
        backwardGradient.Select(value => (double)value).ToArray().CopyTo(result.BackwardGradient, 0);
        return result with { Terms = terms };
    }

    /// <summary>The batch with its values rounded to bfloat16.</summary>
    public FbBatch Rounded()
    {
        var rounded = new FbBatch(shape);
        foreach (var (from, to) in ((double[], double[])[])
            [(Forward, rounded.Forward), (Backward, rounded.Backward), (TargetForward, rounded.TargetForward),
                (TargetBackward, rounded.TargetBackward)])
            Narrow(from).Select(value => (double)(float)value).ToArray().CopyTo(to, 0);
        Done.CopyTo(rounded.Done, 0);
        return rounded;
    }

    public static float[] Floats(double[] values) => [.. values.Select(value => (float)value)];

    public static BFloat16[] Narrow(double[] values) => [.. values.Select(value => (BFloat16)(float)value)];

    private static double Normal(Random random) =>
        Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}

/// <summary>What the op gives.</summary>
internal sealed record FbResult(double[] ForwardGradient, double[] BackwardGradient)
{
    public FbResult(FbShape shape)
        : this(new double[(long)shape.Heads * shape.Count * shape.Dimension], new double[(long)shape.Count * shape.Dimension])
    {
    }

    public FbTerms Terms { get; init; }

    /// <summary>
    /// The distance to another result, relative to the largest magnitudes: of the gradients, and of the loss's parts.
    /// </summary>
    public double DistanceTo(FbResult expected) =>
        Math.Max(
            Math.Max(Distance(ForwardGradient, expected.ForwardGradient), Distance(BackwardGradient, expected.BackwardGradient)),
            Distance(Parts(Terms), Parts(expected.Terms)));

    /// <summary>
    /// The largest difference over the largest magnitude, or over <paramref name="least"/> where that is more; infinite where one is NaN
    /// and the other is not.
    /// </summary>
    public static double Distance(double[] actual, double[] expected, double least = 0)
    {
        var difference = actual.Zip(expected, (a, b) => a.Equals(b) ? 0 : Math.Abs(a - b)).Max();
        var scale = Math.Max(least, expected.Max(Math.Abs));
        return double.IsNaN(difference) || double.IsNaN(scale) ? double.PositiveInfinity : difference == 0 ? 0 : difference / scale;
    }

    private static double[] Parts(FbTerms terms) =>
        [terms.OffDiagonal, terms.Diagonal, terms.OrthonormalityOffDiagonal, terms.OrthonormalityDiagonal];
}
