using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.SuccessorMeasure;

/// <summary>Which kind of indicators a test gives.</summary>
public enum Given
{
    Features,
    NarrowFeatures,
    Bits,
}

/// <summary>One batch of random transitions for the TD ops, in float32, and the same rounded to bfloat16.</summary>
internal sealed class TdBatch
{
    public TdBatch(int rows, int tasks, int seed, double doneRate = 0.2)
    {
        var random = new Random(seed);
        (Rows, Tasks) = (rows, tasks);
        Prediction = Values(random, rows * tasks, 4);
        Next = Values(random, rows * tasks, 4);
        Features = Values(random, rows * tasks, 2);
        Thresholds = Values(random, tasks, 1);
        Done = [.. Enumerable.Range(0, rows).Select(_ => random.NextDouble() < doneRate)];
        Bits = new byte[rows * Indicators.BytesPerState(tasks)];
        random.NextBytes(Bits); // bits behind the last task are garbage, which nobody may look at
    }

    public int Rows { get; }

    public int Tasks { get; }

    public float[] Prediction { get; }

    public float[] Next { get; }

    public float[] Features { get; }

    public float[] Thresholds { get; }

    public bool[] Done { get; }

    public byte[] Bits { get; }

    public static BFloat16[] Narrow(float[] values) => [.. values.Select(value => (BFloat16)value)];

    public Indicators Sets(Given given) => given switch
    {
        Given.Features => Indicators.Threshold(Features, Thresholds),
        Given.NarrowFeatures => Indicators.Threshold(Narrow(Features), Thresholds),
        _ => Indicators.Packed(Bits),
    };

    /// <summary>1, 0 or NaN, by the definition.</summary>
    public double Indicator(Given given, int row, int task)
    {
        if (given == Given.Bits)
            return (Bits[row * ((Tasks + 7) / 8) + task / 8] & (1 << (task % 8))) != 0 ? 1 : 0;
        var feature = Features[row * Tasks + task];
        var x = (double)(given == Given.Features ? feature : (float)(BFloat16)feature) + Thresholds[task];
        return double.IsNaN(x) ? double.NaN : x > 0 ? 1 : 0;
    }

    /// <summary>The formulas, in double, as the test understands them.</summary>
    public Expected Expect(Given given, bool narrow, double discount, bool normalised)
    {
        var expected = new Expected(Rows, Tasks);
        var height = normalised ? 1 - discount : 1;
        for (var b = 0; b < Rows; b++)
        {
            for (var t = 0; t < Tasks; t++)
            {
                var at = b * Tasks + t;
                var (q, next) = narrow ? ((BFloat16)Prediction[at], (BFloat16)Next[at]) : (Prediction[at], Next[at]);
                var target = height * Indicator(given, b, t) + (Done[b] ? 0 : discount * next);
                var error = q - target;
                expected.Gradient[at] = error / Rows / Tasks;
                expected.Scale[at] = (Math.Abs(q) + Math.Abs(discount * next) + 1) / Rows / Tasks;
                expected.RowLosses[b] += error * error / 2 / Tasks;
                expected.Loss += error * error / 2 / Tasks / Rows;
                expected.MeanAbsoluteErrors[t] += Math.Abs(error) / Rows;
                expected.ActiveCounts[t] += Indicator(given, b, t);
            }
        }

        return expected;
    }

    private static float[] Values(Random random, int count, float range) =>
        [.. Enumerable.Range(0, count).Select(_ => random.Next(12) == 0 ? 0 : (float)(random.NextDouble() - 0.5) * range)];

    internal sealed class Expected(int rows, int tasks)
    {
        public double[] Gradient { get; } = new double[rows * tasks];

        /// <summary>The size of what the gradient's element was computed from: what its error is measured in.</summary>
        public double[] Scale { get; } = new double[rows * tasks];

        public double[] RowLosses { get; } = new double[rows];

        public double Loss { get; set; }

        public double[] MeanAbsoluteErrors { get; } = new double[tasks];

        public double[] ActiveCounts { get; } = new double[tasks];
    }
}
