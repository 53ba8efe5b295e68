using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>One batch of random features, heads and transitions, and what the published expression makes of it in double.</summary>
internal sealed class PvnBatch
{
    private PvnBatch(PvnShape shape, TdBatch td, float[] features, float[] next, float[] weights, float[] targets, int[] actions)
    {
        (Shape, Td, Features, NextFeatures, Weights, TargetWeights, Actions) = (shape, td, features, next, weights, targets, actions);
        TargetMean = new float[shape.Tasks * shape.Features];
        PvnHead.MeanOverActions(targets, shape, TargetMean, AuxBackend.Reference);
    }

    public PvnBatch(int rows, int features, int tasks, int actions, int seed, double doneRate = 0.2)
        : this(
            new(features, tasks, actions), new TdBatch(rows, tasks, seed, doneRate), Values(seed + 1, rows * features),
            Values(seed + 2, rows * features), Values(seed + 3, tasks * actions * features), Values(seed + 4, tasks * actions * features),
            [.. Enumerable.Range(0, rows).Select(b => new Random(seed * 1000 + b).Next(actions))])
    {
    }

    public PvnShape Shape { get; }

    public TdBatch Td { get; }

    public float[] Features { get; }

    public float[] NextFeatures { get; }

    public float[] Weights { get; }

    public float[] TargetWeights { get; }

    public float[] TargetMean { get; }

    public int[] Actions { get; }

    public Result Run(Runner runner, Given given, double discount, bool normalised)
    {
        var result = new Result(Td.Rows, Shape);
        runner.Run(backend => result.Loss = PvnHead.Run(
            Features, NextFeatures, Weights, TargetMean, Actions, Td.Done, Td.Sets(given), Shape, discount, Start.Current, normalised,
            new PvnGradients { Features = result.FeatureGradient, Weights = result.WeightGradient },
            new TdStatistics { RowLosses = result.RowLosses }, backend));
        return result;
    }

    /// <summary>The dot product of row i of one matrix of F columns and row k of another, in double.</summary>
    public double Dot(float[] left, int i, float[] right, int k)
    {
        var sum = 0.0;
        for (var f = 0; f < Shape.Features; f++)
            sum += (double)left[i * Shape.Features + f] * right[k * Shape.Features + f];
        return sum;
    }

    public Expected Expect(Given given, double discount, bool normalised)
    {
        var (rows, (features, tasks, actions)) = (Td.Rows, Shape);
        var expected = new Expected(rows, Shape);
        for (var b = 0; b < rows; b++)
        {
            for (var t = 0; t < tasks; t++)
            {
                var all = Enumerable.Range(0, actions).Select(a => Dot(NextFeatures, b, TargetWeights, t * actions + a)).Average();
                var indicator = Td.Indicator(given, b, t) * (normalised ? 1 - discount : 1);
                var head = t * actions + Actions[b];
                var error = Dot(Features, b, Weights, head) - (indicator + (Td.Done[b] ? 0 : discount * all));
                expected.RowLosses[b] += error * error / 2 / tasks;
                expected.Loss += error * error / 2 / tasks / rows;
                var slope = error / tasks / rows;
                for (var f = 0; f < features; f++)
                {
                    expected.FeatureGradient[b * features + f] += slope * Weights[head * features + f];
                    expected.WeightGradient[head * features + f] += slope * Features[b * features + f];
                }

                expected.FeatureScale = Math.Max(expected.FeatureScale, Math.Abs(slope) * tasks);
                expected.WeightScale = Math.Max(expected.WeightScale, Math.Abs(slope) * rows);
            }
        }

        return expected;
    }

    /// <summary>The same transitions in the opposite order.</summary>
    public PvnBatch Reversed()
    {
        var td = new TdBatch(Td.Rows, Td.Tasks, 0);
        Rows(Td.Features, Td.Tasks).CopyTo(td.Features, 0);
        Td.Thresholds.CopyTo(td.Thresholds, 0);
        Td.Done.Reverse().ToArray().CopyTo(td.Done, 0);
        return new(
            Shape, td, Rows(Features, Shape.Features), Rows(NextFeatures, Shape.Features), Weights, TargetWeights, [.. Actions.Reverse()]);

        static float[] Rows(float[] values, int columns) => [.. values.Chunk(columns).Reverse().SelectMany(row => row)];
    }

    private static float[] Values(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() - 0.5) * 2)];
    }

    internal sealed class Result(int rows, PvnShape shape)
    {
        public double Loss { get; set; }

        public double[] RowLosses { get; } = new double[rows];

        public float[] FeatureGradient { get; } = new float[rows * shape.Features];

        public float[] WeightGradient { get; } = new float[shape.Tasks * shape.Actions * shape.Features];
    }

    internal sealed class Expected(int rows, PvnShape shape)
    {
        public double Loss { get; set; }

        public double[] RowLosses { get; } = new double[rows];

        public double[] FeatureGradient { get; } = new double[rows * shape.Features];

        public double[] WeightGradient { get; } = new double[shape.Tasks * shape.Actions * shape.Features];

        public double FeatureScale { get; set; }

        public double WeightScale { get; set; }
    }
}
