using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class IndicatorCalibrationTests
{
    private static readonly (int Rows, int Tasks)[] Sizes =
        [(3, 1), (20, 7), (64, 8), (65, 17), (100, 33), (256, 100), (70, 1030), (2000, 5), (1500, 35)];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, bool> Matrix => new MatrixTheoryData<Runner, bool>(BackendMatrix.All, [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void A_quantile_holds_the_wanted_number_of_states(Runner runner, bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            foreach (var rate in rows < 20 ? (double[])[0.3, 0.5] : [0.05, 0.29, 0.5, 0.95])
            {
                var features = Values(rows * tasks, seed: rows + tasks, range: 2);
                var (thresholds, counts) = (new float[tasks], new int[tasks]);
                IndicatorReport? report = null;

                runner.Run(backend => report = narrow
                    ? IndicatorCalibration.Quantile(TdBatch.Narrow(features), tasks, rate, thresholds, counts, backend)
                    : IndicatorCalibration.Quantile(features, tasks, rate, thresholds, counts, backend));

                var wanted = (int)Math.Floor(rate * rows + 0.5);
                for (var t = 0; t < tasks; t++)
                {
                    float[] column = [.. Column(features, tasks, t, narrow).OrderDescending()];
                    Assert.Equal(column[wanted], -thresholds[t]);
                    Assert.Equal(column.Count(value => value > column[wanted]), counts[t]);
                    if (!narrow)
                        Assert.Equal(wanted, counts[t]); // the features are distinct
                }

                Assert.Equal(rows, report!.States);
                Assert.Equal(counts.Average() / rows, report.MeanRate, 1e-12);
                Assert.Empty(report.NotANumberTasks);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Ties_at_the_threshold_stay_out_and_dead_tasks_are_reported(Runner runner)
    {
        // Columns: a tie across the place; all equal; mostly zeros, as behind a ReLU; zeros of both signs; infinities; a NaN; infinity at
        // the place itself.
        const float Infinity = float.PositiveInfinity;
        float[,] features =
        {
            { 5, 2, 0, 0f, Infinity, 1, Infinity },
            { 4, 2, 0, -0f, 1, float.NaN, 1 },
            { 4, 2, 3, 0f, 2, 3, Infinity },
            { 4, 2, 0, -0f, 3, 4, 4 },
            { 1, 2, 0, 0f, -Infinity, 5, Infinity },
        };
        var (thresholds, counts) = (new float[7], new int[7]);
        IndicatorReport? report = null;

        runner.Run(backend => report = IndicatorCalibration.Quantile([.. features.Cast<float>()], 7, 0.4, thresholds, counts, backend));

        Assert.Equal([-4, -2, 0, 0, -2, float.NaN, float.NaN], thresholds);
        Assert.Equal([1, 0, 1, 0, 2, -1, -1], counts);
        Assert.Equal(BitConverter.SingleToInt32Bits(0f), BitConverter.SingleToInt32Bits(thresholds[3]));
        Assert.Equal([1, 3], report!.DeadTasks);
        Assert.Empty(report.FullTasks);
        Assert.Equal([5, 6], report.NotANumberTasks);
        Assert.Equal((1 + 0 + 1 + 0 + 2) / 25.0, report.MeanRate, 1e-12);
        Assert.Equal("5 states, 16 % of them in a set on average; 2 dead tasks, 0 full, 2 with NaN", report.ToString());
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Bits_and_counts_are_those_of_the_definition(Runner runner, bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            var features = Values(rows * tasks, seed: rows, range: 1);
            var thresholds = Values(tasks, seed: tasks, range: 0.2f);
            var bytes = Indicators.BytesPerState(tasks);
            var (bits, counts) = (new byte[rows * bytes + 1], new int[tasks]);
            Array.Fill(bits, (byte)0xAA);

            runner.Run(backend => _ = narrow
                ? IndicatorCalibration.Pack(TdBatch.Narrow(features), thresholds, bits.AsSpan(0, rows * bytes), counts, backend)
                : IndicatorCalibration.Pack(features, thresholds, bits.AsSpan(0, rows * bytes), counts, backend));

            Assert.Equal(0xAA, bits[^1]);
            for (var t = 0; t < tasks; t++)
            {
                float[] column = [.. Column(features, tasks, t, narrow)];
                Assert.Equal(column.Count(value => value + thresholds[t] > 0), counts[t]);
                for (var n = 0; n < rows; n++)
                    Assert.Equal(column[n] + thresholds[t] > 0, (bits[n * bytes + t / 8] >> (t % 8) & 1) != 0);
            }

            for (var n = 0; n < rows && tasks % 8 != 0; n++)
                Assert.Equal(0, bits[(n + 1) * bytes - 1] >> (tasks % 8)); // what lies behind the last task is 0
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Packed_indicators_teach_what_features_teach(Runner runner)
    {
        var batch = new TdBatch(31, 100, seed: 4);
        var (bits, fromFeatures, fromBits) = (new byte[31 * 13], new float[3100], new float[3100]);
        runner.Run(backend =>
        {
            IndicatorCalibration.Pack(batch.Features, batch.Thresholds, bits, backend: backend);
            IndicatorTd.Run(
                batch.Prediction, batch.Next, batch.Done, batch.Sets(Given.Features), 100, 0.9, Start.Current, false, fromFeatures,
                backend: backend);
            IndicatorTd.Run(
                batch.Prediction, batch.Next, batch.Done, Indicators.Packed(bits), 100, 0.9, Start.Current, false, fromBits,
                backend: backend);
        });
        Assert.Equal(fromFeatures, fromBits);
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void A_pinball_step_follows_the_definition(Runner runner, bool narrow)
    {
        const double Rate = 0.05, LearningRate = 0.3;
        foreach (var (rows, tasks) in Sizes)
        {
            var features = Values(rows * tasks, seed: rows, range: 1);
            var before = Values(tasks, seed: tasks, range: 1);
            var (thresholds, gradient, bits, counts) =
                ((float[])before.Clone(), new float[tasks], new byte[rows * Indicators.BytesPerState(tasks)], new int[tasks]);
            var loss = double.NaN;

            runner.Run(backend =>
            {
                var outputs = new PinballOutputs { Gradient = gradient, Bits = bits, ActiveCounts = counts };
                loss = narrow
                    ? IndicatorCalibration.PinballStep(TdBatch.Narrow(features), Rate, LearningRate, thresholds, outputs, backend)
                    : IndicatorCalibration.PinballStep(features, Rate, LearningRate, thresholds, outputs, backend);
            });

            var expectedLoss = 0.0;
            for (var t = 0; t < tasks; t++)
            {
                double[] x = [.. Column(features, tasks, t, narrow).Select(value => (double)value + before[t])];
                expectedLoss += x.Average(value => value * (1 - Rate - (value < 0 ? 1 : 0))) / tasks;
                var slope = (1 - Rate - x.Count(value => value < 0) / (double)rows) / tasks;
                Assert.Equal(slope, gradient[t], 1e-7);
                Assert.Equal(before[t] - LearningRate * slope, thresholds[t], 1e-7);
                Assert.Equal(x.Count(value => value > 0), counts[t]);
            }

            Assert.Equal(expectedLoss, loss, Tolerances.IndicatorCalibrationRelative * expectedLoss);
            var (packed, sameCounts) = (new byte[bits.Length], new int[tasks]);
            _ = narrow
                ? IndicatorCalibration.Pack(TdBatch.Narrow(features), before, packed, sameCounts)
                : IndicatorCalibration.Pack(features, before, packed, sameCounts);
            Assert.Equal(packed, bits); // those of the thresholds before the step
            Assert.Equal(sameCounts, counts);
        }
    }

    [Fact]
    public void The_gradient_of_the_pinball_loss_is_its_slope()
    {
        const float Step = 1e-4f;
        var features = Values(40 * 9, seed: 2, range: 4);
        var thresholds = Values(9, seed: 3, range: 1);
        var gradient = new float[9];
        Loss(gradient);
        for (var t = 0; t < 9; t++)
        {
            // Between two kinks the loss is a straight line.
            Assert.DoesNotContain(Column(features, 9, t, false), value => Math.Abs(value + thresholds[t]) < 2 * Step);
            var before = thresholds[t];
            thresholds[t] = before + Step;
            var (above, upper) = (Loss(default), thresholds[t]);
            thresholds[t] = before - Step;
            var (below, lower) = (Loss(default), thresholds[t]);
            thresholds[t] = before;
            Assert.Equal((above - below) / ((double)upper - lower), gradient[t], 1e-6);
        }

        double Loss(Span<float> output) =>
            IndicatorCalibration.PinballStep(features, 0.2, 0, thresholds, new PinballOutputs { Gradient = output }, AuxBackend.Reference);
    }

    [Fact]
    public void Many_pinball_steps_reach_the_quantile()
    {
        var features = Values(500 * 4, seed: 9, range: 2);
        var (thresholds, exact) = (new float[4], new float[4]);
        IndicatorCalibration.Quantile(features, 4, 0.1, exact);
        for (var step = 0; step < 4000; step++)
            IndicatorCalibration.PinballStep(features, 0.1, 4.0 / (1 + step / 50.0), thresholds);
        for (var t = 0; t < 4; t++)
            Assert.Equal(exact[t], thresholds[t], 0.01);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_is_never_a_silent_zero(Runner runner)
    {
        foreach (var tasks in (int[])[1, 9, 40])
        {
            for (var spoiled = 0; spoiled < tasks; spoiled += 4)
            {
                var features = Values(30 * tasks, seed: tasks, range: 2);
                features[17 * tasks + spoiled] = float.NaN;
                var (thresholds, counts, gradient) = (new float[tasks], new int[tasks], new float[tasks]);
                var bits = new byte[30 * Indicators.BytesPerState(tasks)];
                var loss = 0.0;
                IndicatorReport? packed = null;

                runner.Run(backend =>
                {
                    IndicatorCalibration.Quantile(features, tasks, 0.2, thresholds, backend: backend);
                    Assert.Equal([spoiled], Places(thresholds));
                    thresholds[spoiled] = 0;
                    packed = IndicatorCalibration.Pack(features, thresholds, bits, counts, backend);
                    loss = IndicatorCalibration.PinballStep(
                        features, 0.2, 0.1, thresholds, new PinballOutputs { Gradient = gradient }, backend);
                });

                Assert.Equal([spoiled], packed!.NotANumberTasks);
                Assert.Equal(-1, counts[spoiled]);
                Assert.Equal(0, bits[17 * Indicators.BytesPerState(tasks) + spoiled / 8] >> (spoiled % 8) & 1);
                Assert.True(double.IsNaN(loss));
                Assert.Equal([spoiled], Places(gradient));
                Assert.Equal([spoiled], Places(thresholds));
            }
        }

        static int[] Places(float[] values) => [.. Enumerable.Range(0, values.Length).Where(i => float.IsNaN(values[i]))];
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        foreach (var (rows, tasks) in Sizes.Append((700, 401)))
        {
            var features = Values(rows * tasks, seed: 1, range: 2);
            var expected = Result(BackendMatrix.Scalar);
            foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
            {
                var actual = Result(runner);
                Assert.Equal(EmaUpdateTests.Bits(expected.Thresholds), EmaUpdateTests.Bits(actual.Thresholds));
                Assert.Equal(expected.Counts, actual.Counts);
                Assert.Equal(BitConverter.DoubleToInt64Bits(expected.Loss), BitConverter.DoubleToInt64Bits(actual.Loss));
            }

            (float[] Thresholds, int[] Counts, double Loss) Result(Runner runner)
            {
                var (thresholds, counts, loss) = (new float[tasks], new int[tasks], 0.0);
                runner.Run(backend =>
                {
                    IndicatorCalibration.Quantile(features, tasks, 0.4, thresholds, counts, backend);
                    loss = IndicatorCalibration.PinballStep(features, 0.3, 1, thresholds, backend: backend);
                });
                return (thresholds, counts, loss);
            }
        }
    }

    [Fact]
    public void A_selected_threshold_is_the_sorted_one() => Gen.Select(Gen.Int[-3, 3].Array[2, 400], Gen.Double[0.01, 0.99])
        .Where((values, rate) => Math.Floor(rate * values.Length + 0.5) is var k && k >= 1 && k < values.Length)
        .Sample((values, rate) =>
        {
            float[] features = [.. values.Select(value => (float)value)]; // many ties
            var (selected, sorted) = (new float[1], new float[1]);
            var report = IndicatorCalibration.Quantile(features, 1, rate, selected, backend: AuxBackend.Cpu);
            IndicatorCalibration.Quantile(features, 1, rate, sorted, backend: AuxBackend.Reference);
            return selected[0] == sorted[0] && report.MeanRate <= Math.Floor(rate * values.Length + 0.5) / values.Length + 1e-12;
        });

    [Fact]
    public void Large_samples_are_selected_from_as_small_ones_are() => Gen.Select(Gen.Int[0, 1000], Gen.Double[0.002, 0.998]).Sample(
        (seed, rate) =>
        {
            const int Rows = 1200, Tasks = 37;
            var random = new Random(seed);
            var features = new float[Rows * Tasks];
            for (var t = 0; t < Tasks; t++)
            {
                // Smooth, few values, one value, mostly zeros, heavy tails with infinities, sorted, a lonely NaN.
                Func<int, float> make = (t % 7) switch
                {
                    0 => _ => (float)random.NextDouble(),
                    1 => _ => random.Next(3),
                    2 => _ => 4,
                    3 => _ => Math.Max(0, (float)random.NextDouble() - 0.9f),
                    4 => _ => (float)(1 / (random.NextDouble() - 0.5) / (random.Next(20) == 0 ? 0 : 1)),
                    5 => n => n,
                    _ => n => n == 700 ? float.NaN : random.Next(1000),
                };
                for (var n = 0; n < Rows; n++)
                    features[n * Tasks + t] = make(n);
            }

            var (fast, plain) = (new float[Tasks], new float[Tasks]);
            var (fastCounts, plainCounts) = (new int[Tasks], new int[Tasks]);
            IndicatorCalibration.Quantile(features, Tasks, rate, fast, fastCounts, AuxBackend.Cpu);
            IndicatorCalibration.Quantile(features, Tasks, rate, plain, plainCounts, AuxBackend.Reference);
            for (var t = 0; t < Tasks; t++)
            {
                Assert.True(
                    fast[t].Equals(plain[t]) && fastCounts[t] == plainCounts[t],
                    $"task {t}: {fast[t]}, {fastCounts[t]} active, not {plain[t]}, {plainCounts[t]}");
            }

            return true;
        }, iter: 40);

    [Fact]
    public void Orders_that_split_badly_are_selected_from_too()
    {
        // Sorted, reversed, organ pipe, sawtooth: what naive pivots are slow on.
        Func<int, float>[] orders = [i => i, i => -i, i => Math.Min(i, 5000 - i), i => i % 7, i => i % 2 == 0 ? i : -i];
        foreach (var order in orders)
        {
            float[] features = [.. Enumerable.Range(0, 5000).Select(order)];
            var threshold = new float[1];
            IndicatorCalibration.Quantile(features, 1, 0.01, threshold);
            Assert.Equal(features.OrderDescending().ElementAt(50), -threshold[0]);
        }
    }

    [Fact]
    public void A_report_reads_counts_of_a_device_too()
    {
        var report = IndicatorReport.Of([0, 4, -1, 2, 0, 4], 4);
        Assert.Equal([0, 4], report.DeadTasks);
        Assert.Equal([1, 5], report.FullTasks);
        Assert.Equal([2], report.NotANumberTasks);
        Assert.Equal(0.5, report.MeanRate);
        Assert.True(double.IsNaN(IndicatorReport.Of([-1], 4).MeanRate));
        Assert.Throws<ArgumentOutOfRangeException>(() => IndicatorReport.Of([5], 4));
        Assert.Throws<ArgumentOutOfRangeException>(() => IndicatorReport.Of([0], 0));
    }

    private static IEnumerable<float> Column(float[] features, int tasks, int task, bool narrow)
    {
        for (var at = task; at < features.Length; at += tasks)
            yield return narrow ? (BFloat16)features[at] : features[at];
    }

    private static float[] Values(int count, int seed, float range)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() - 0.5) * range)];
    }
}
