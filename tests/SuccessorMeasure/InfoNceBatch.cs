using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>Queries and keys in double, the loss and its gradients by the textbook's n × n matrices, and runs of the op on them.</summary>
internal sealed class InfoNceBatch(int count, int dimension)
{
    public int Count => count;

    public int Dimension => dimension;

    public double[] Queries { get; } = new double[count * dimension];

    public double[] Keys { get; } = new double[count * dimension];

    /// <summary>Keys lie around their queries. Values that float32 holds, so that every dtype but bfloat16 sees the same ones.</summary>
    public static InfoNceBatch Random(int count, int dimension, int seed, double scale = 1, double centre = 0)
    {
        var random = new Random(seed);
        var batch = new InfoNceBatch(count, dimension);
        for (var i = 0; i < batch.Queries.Length; i++)
        {
            batch.Queries[i] = (float)(centre + scale * Normal());
            batch.Keys[i] = (float)(batch.Queries[i] + 0.5 * scale * Normal());
        }

        return batch;

        double Normal() => Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
    }

    /// <summary>Loss and gradients by their definition.</summary>
    public InfoNceResult Formula(InfoNceOptions options)
    {
        var (n, d) = (count, dimension);
        var logits = new double[n, n];
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < n; j++)
                logits[i, j] = Logit(i, j, options);
        }

        double[] rows = [.. Indices().Select(i => LogSum(Others(i).Select(j => logits[i, j])))];
        double[] columns = [.. Indices().Select(j => LogSum(Others(j).Select(i => logits[i, j])))];
        var symmetric = options.Direction == InfoNceDirection.Symmetric;
        var contrast = Indices().Average(i => rows[i] - logits[i, i]) + (symmetric ? Indices().Average(j => columns[j] - logits[j, j]) : 0);
        var penalty = options.LogSumExpPenalty * rows.Average(row => row * row);

        var result = new InfoNceResult(new double[n * d], new double[n * d]) { Terms = new(contrast, penalty) };
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < n; j++)
            {
                var inSum = i != j || !options.ExcludePositives;
                var slope = inSum ? Math.Exp(logits[i, j] - rows[i]) * (1 + 2 * options.LogSumExpPenalty * rows[i]) : 0;
                slope += symmetric && inSum ? Math.Exp(logits[i, j] - columns[j]) : 0;
                slope -= i != j ? 0 : symmetric ? 2 : 1;
                AddSlopes(i, j, slope / (n * options.Temperature), result, options);
            }
        }

        return result;

        IEnumerable<int> Indices() => Enumerable.Range(0, n);
        IEnumerable<int> Others(int i) => Indices().Where(j => j != i || !options.ExcludePositives);
        static double LogSum(IEnumerable<double> logits)
        {
            double[] values = [.. logits];
            var largest = values.Max();
            return largest + Math.Log(values.Sum(value => Math.Exp(value - largest)));
        }
    }

    public InfoNceResult Run(InfoNceOptions options, DType dtype, AuxBackend backend = AuxBackend.Auto)
    {
        InfoNceTerms terms;
        double[] queryGradient = new double[Queries.Length], keyGradient = new double[Keys.Length];
        if (dtype == DType.Float64)
        {
            terms = InfoNceLoss.Run(Queries, Keys, count, dimension, options, queryGradient, keyGradient, backend);
            return new(queryGradient, keyGradient) { Terms = terms };
        }

        float[] query = new float[Queries.Length], key = new float[Keys.Length];
        terms = dtype == DType.Float32
            ? InfoNceLoss.Run(FbBatch.Floats(Queries), FbBatch.Floats(Keys), count, dimension, options, query, key, backend)
            : InfoNceLoss.Run(FbBatch.Narrow(Queries), FbBatch.Narrow(Keys), count, dimension, options, query, key, backend);
        return new([.. query.Select(value => (double)value)], [.. key.Select(value => (double)value)]) { Terms = terms };
    }

    /// <summary>The batch with its values rounded to bfloat16.</summary>
    public InfoNceBatch Rounded()
    {
        var rounded = new InfoNceBatch(count, dimension);
        FbBatch.Narrow(Queries).Select(value => (double)(float)value).ToArray().CopyTo(rounded.Queries, 0);
        FbBatch.Narrow(Keys).Select(value => (double)(float)value).ToArray().CopyTo(rounded.Keys, 0);
        return rounded;
    }

    private double Logit(int i, int j, InfoNceOptions options) => options.Similarity switch
    {
        InfoNceSimilarity.Dot => Sum((query, key) => query * key, i, j),
        InfoNceSimilarity.Cosine => Cosine(i, j),
        InfoNceSimilarity.NegativeSquaredDistance => -Sum((query, key) => (query - key) * (query - key), i, j),
        _ => -Distance(i, j, options),
    } / options.Temperature;

    // slope · ∂l_ij/∂φ_ik and slope · ∂l_ij/∂ψ_jk, the temperature being in the slope.
    private void AddSlopes(int i, int j, double slope, InfoNceResult result, InfoNceOptions options)
    {
        var distance = Distance(i, j, options);
        var (a, b, cosine) = (Norm(Queries, i), Norm(Keys, j), Cosine(i, j));
        for (var k = 0; k < dimension; k++)
        {
            var (query, key) = (Queries[i * dimension + k], Keys[j * dimension + k]);
            var (byQuery, byKey) = options.Similarity switch
            {
                InfoNceSimilarity.Dot => (key, query),
                InfoNceSimilarity.NegativeSquaredDistance => (2 * (key - query), 2 * (query - key)),
                InfoNceSimilarity.Cosine => a * b == 0 ? (0, 0)
                    : ((key / b - cosine * query / a) / a, (query / a - cosine * key / b) / b),
                _ => distance == 0 ? (0, 0) : ((key - query) / distance, (query - key) / distance),
            };
            result.QueryGradient[i * dimension + k] += slope * byQuery;
            result.KeyGradient[j * dimension + k] += slope * byKey;
        }
    }

    private double Distance(int i, int j, InfoNceOptions options) =>
        Math.Sqrt(Sum((query, key) => (query - key) * (query - key), i, j) + options.DistanceOffset);

    private double Cosine(int i, int j)
    {
        var norms = Norm(Queries, i) * Norm(Keys, j);
        return norms == 0 ? 0 : Sum((query, key) => query * key, i, j) / norms;
    }

    private double Norm(double[] rows, int i)
    {
        var sum = 0.0;
        for (var k = 0; k < dimension; k++)
            sum += rows[i * dimension + k] * rows[i * dimension + k];
        return Math.Sqrt(sum);
    }

    private double Sum(Func<double, double, double> term, int i, int j)
    {
        var sum = 0.0;
        for (var k = 0; k < dimension; k++)
            sum += term(Queries[i * dimension + k], Keys[j * dimension + k]);
        return sum;
    }
}

/// <summary>What the op gives.</summary>
internal sealed record InfoNceResult(double[] QueryGradient, double[] KeyGradient)
{
    public InfoNceTerms Terms { get; init; }

    /// <summary>
    /// The distance to another result: of the gradients relative to their largest element or 1 / n, which one pair's slope may be, and of
    /// the loss relative to itself or 1.
    /// </summary>
    public double DistanceTo(InfoNceResult expected, int count) => Math.Max(
        Math.Max(
            FbResult.Distance(QueryGradient, expected.QueryGradient, 1.0 / count),
            FbResult.Distance(KeyGradient, expected.KeyGradient, 1.0 / count)),
        FbResult.Distance([Terms.Contrast, Terms.Penalty], [expected.Terms.Contrast, expected.Terms.Penalty], 1));
}
