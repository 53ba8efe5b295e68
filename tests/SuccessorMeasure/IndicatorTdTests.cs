using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class IndicatorTdTests
{
    private const float Canary = 12345.678f;
    private const double Discount = 0.9;

    private static readonly (int Rows, int Tasks)[] Sizes =
    [
        (1, 1), (1, 7), (2, 8), (3, 15), (5, 16), (4, 17), (7, 31), (2, 33), (9, 64), (6, 100), (130, 13), (70, 1023), (3, 1024), (2, 1025),
        (3, 2049), (1000, 3),
    ];

    public static TheoryData<Runner, Given, bool> Matrix =>
        new MatrixTheoryData<Runner, Given, bool>(BackendMatrix.All, Enum.GetValues<Given>(), [false, true]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_in_double(Runner runner, Given given, bool narrow)
    {
        foreach (var (rows, tasks) in Sizes)
        {
            foreach (var normalised in (bool[])[false, true])
            {
                var batch = new TdBatch(rows, tasks, seed: rows + tasks);
                var expected = batch.Expect(given, narrow, Discount, normalised);
                var (gradient, rowLosses) = (new float[rows * tasks + 2], new double[rows + 1]);
                var (counts, errors) = (new int[tasks + 1], new float[tasks + 1]);
                (gradient[0], gradient[^1], errors[^1], rowLosses[^1], counts[^1]) = (Canary, Canary, Canary, Canary, 77);
                var loss = double.NaN;

                runner.Run(backend => loss = Run(
                    batch, given, narrow, normalised, gradient.AsSpan(1, rows * tasks), rowLosses.AsSpan(0, rows), counts.AsSpan(0, tasks),
                    errors.AsSpan(0, tasks), backend));

                var where = $"{runner} {given} narrow={narrow} normalised={normalised} [{rows}, {tasks}]";
                Assert.Equal((Canary, Canary, Canary, Canary, 77), (gradient[0], gradient[^1], errors[^1], rowLosses[^1], counts[^1]));
                for (var i = 0; i < rows * tasks; i++)
                {
                    var ulps = Tolerances.Ulps(gradient[i + 1], (float)expected.Gradient[i], (float)expected.Scale[i]);
                    Assert.True(
                        ulps <= Tolerances.IndicatorTdUlps, $"{where} {i}: {gradient[i + 1]:R}, not {expected.Gradient[i]:R}, {ulps} ulps");
                }

                Close(expected.Loss, loss, where);
                for (var b = 0; b < rows; b++)
                    Close(expected.RowLosses[b], rowLosses[b], where);
                for (var t = 0; t < tasks; t++)
                {
                    Close(expected.MeanAbsoluteErrors[t], errors[t], where);
                    Assert.Equal((int)expected.ActiveCounts[t], counts[t]);
                }
            }
        }
    }

    private static void Close(double expected, double actual, string where) => Assert.True(
        Math.Abs(actual - expected) <= Tolerances.IndicatorTdRelative * Math.Max(1, expected), $"{where}: {actual:R}, not {expected:R}");

    private static double Run(
        TdBatch batch, Given given, bool narrow, bool normalised, Span<float> gradient, Span<double> rowLosses, Span<int> counts,
        Span<float> errors, AuxBackend backend)
    {
        var statistics = new TdStatistics { RowLosses = rowLosses, ActiveCounts = counts, MeanAbsoluteErrors = errors };
        return narrow
            ? IndicatorTd.Run(
                TdBatch.Narrow(batch.Prediction), TdBatch.Narrow(batch.Next), batch.Done, batch.Sets(given), batch.Tasks, Discount,
                Start.Current, normalised, gradient, statistics, backend)
            : IndicatorTd.Run(
                batch.Prediction, batch.Next, batch.Done, batch.Sets(given), batch.Tasks, Discount, Start.Current, normalised,
                gradient, statistics, backend);
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        foreach (var (rows, tasks) in Sizes.Append((400, 701)))
        {
            var batch = new TdBatch(rows, tasks, seed: 3);
            foreach (var given in Enum.GetValues<Given>())
            {
                var expected = Result(BackendMatrix.Scalar);
                foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
                {
                    var actual = Result(runner);
                    Assert.Equal(EmaUpdateTests.Bits(expected.Gradient), EmaUpdateTests.Bits(actual.Gradient));
                    Assert.Equal(EmaUpdateTests.Bits(expected.Errors), EmaUpdateTests.Bits(actual.Errors));
                    Assert.Equal(expected.Counts, actual.Counts);
                    Assert.Equal(BitConverter.DoubleToInt64Bits(expected.Loss), BitConverter.DoubleToInt64Bits(actual.Loss));
                }

                (float[] Gradient, float[] Errors, int[] Counts, double Loss) Result(Runner runner)
                {
                    var (gradient, errors, counts, loss) = (new float[rows * tasks], new float[tasks], new int[tasks], 0.0);
                    runner.Run(backend => loss = Run(batch, given, false, true, gradient, default, counts, errors, backend));
                    return (gradient, errors, counts, loss);
                }
            }
        }
    }

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_gradient_is_the_slope_of_the_loss(Runner runner)
    {
        // A power of two: predictions move exactly, and the loss is a parabola, so central differences are exact.
        const float Step = 1 / 64f;
        var batch = new TdBatch(5, 19, seed: 11);
        var gradient = new float[5 * 19];
        runner.Run(backend =>
        {
            Loss(backend, gradient);
            for (var i = 0; i < gradient.Length; i += 7)
            {
                var before = batch.Prediction[i];
                batch.Prediction[i] = before + Step;
                var (above, upper) = (Loss(backend, default), batch.Prediction[i]);
                batch.Prediction[i] = before - Step;
                var (below, lower) = (Loss(backend, default), batch.Prediction[i]);
                batch.Prediction[i] = before;
                Assert.Equal((above - below) / ((double)upper - lower), gradient[i], 1e-6);
            }
        });

        double Loss(AuxBackend backend, Span<float> output) => IndicatorTd.Run(
            batch.Prediction, batch.Next, batch.Done, batch.Sets(Given.Features), 19, Discount, Start.Current, false, output,
            backend: backend);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void At_the_fixed_point_the_loss_is_zero(Runner runner)
    {
        // Two states that alternate, and the set of the first: Ψ = (1, γ) / (1 − γ²) with γ = ½. All of it is exact in float32.
        foreach (var (normalised, scale) in ((bool, float)[])[(false, 1), (true, 0.5f)])
        {
            float[] values = [scale * 4 / 3f, scale * 2 / 3f];
            var gradient = new float[2];
            var loss = double.NaN;
            runner.Run(backend => loss = IndicatorTd.Run(
                values, [values[1], values[0]], [false, false], Indicators.Packed([1, 0]), 1, 0.5, Start.Current, normalised, gradient,
                backend: backend));
            Assert.InRange(loss, 0, 1e-14);
            Assert.All(gradient, value => Assert.InRange(value, -1e-7f, 1e-7f));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_anywhere_that_is_read_shows_in_the_loss(Runner runner)
    {
        foreach (var tasks in (int[])[1, 5, 100])
        {
            for (var task = 0; task < tasks; task += 3)
            {
                foreach (var which in (string[])["prediction", "next", "feature", "threshold"])
                {
                    var batch = new TdBatch(3, tasks, seed: 5, doneRate: 0);
                    var spoiled = which switch
                    {
                        "prediction" => batch.Prediction.AsSpan(tasks),
                        "next" => batch.Next.AsSpan(tasks),
                        "feature" => batch.Features.AsSpan(tasks),
                        _ => batch.Thresholds,
                    };
                    spoiled[task] = float.NaN;
                    var (gradient, counts, errors, losses) = (new float[3 * tasks], new int[tasks], new float[tasks], new double[3]);
                    var loss = 0.0;

                    runner.Run(backend => loss = Run(batch, Given.Features, false, false, gradient, losses, counts, errors, backend));

                    Assert.True(double.IsNaN(loss), which);
                    Assert.True(double.IsNaN(losses[1]));
                    Assert.Equal(which != "threshold", !double.IsNaN(losses[0]));
                    Assert.True(float.IsNaN(gradient[tasks + task]));
                    Assert.True(float.IsNaN(errors[task]));
                    Assert.Equal(which is "feature" or "threshold", counts[task] == -1);
                    Assert.Equal(which == "threshold" ? 3 : 1, gradient.Count(float.IsNaN));
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_terminal_transition_does_not_read_its_next_values(Runner runner)
    {
        foreach (var narrow in (bool[])[false, true])
        {
            var batch = new TdBatch(4, 21, seed: 8, doneRate: 1);
            batch.Next.AsSpan().Fill(float.NaN);
            var gradient = new float[4 * 21];
            var loss = double.NaN;
            runner.Run(backend => loss = Run(batch, Given.Features, narrow, false, gradient, default, default, default, backend));
            Assert.False(double.IsNaN(loss));
            Assert.DoesNotContain(float.NaN, gradient);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void States_at_the_threshold_are_not_in_the_set(Runner runner)
    {
        float[] features = [1, MathF.BitIncrement(1), MathF.BitDecrement(1), 0, -0f, 1e-45f, float.PositiveInfinity,
            float.NegativeInfinity];
        float[] thresholds = [-1, -1, -1, 0, 0, 0, 5, 5];
        var counts = new int[8];
        runner.Run(backend => IndicatorTd.Run(
            new float[8], new float[8], [false], Indicators.Threshold(features, thresholds), 8, 0, Start.Next, false, default,
            new TdStatistics { ActiveCounts = counts }, backend));
        Assert.Equal([0, 1, 0, 0, 0, 1, 1, 0], counts);
    }

    [Fact]
    public void Outputs_that_are_not_wanted_change_nothing() => Gen.Select(Gen.Int[1, 40], Gen.Int[1, 140], Gen.Int[0, 31]).Sample(
        (rows, tasks, wanted) =>
        {
            var batch = new TdBatch(rows, tasks, seed: wanted);
            var (gradient, losses, counts, errors) = (new float[rows * tasks], new double[rows], new int[tasks], new float[tasks]);
            var all = Run(batch, Given.Bits, false, true, gradient, losses, counts, errors, AuxBackend.Cpu);
            var (gradient2, losses2, counts2, errors2) = (new float[rows * tasks], new double[rows], new int[tasks], new float[tasks]);
            var some = Run(
                batch, Given.Bits, false, true, (wanted & 1) != 0 ? gradient2 : default, (wanted & 2) != 0 ? losses2 : default,
                (wanted & 4) != 0 ? counts2 : default, (wanted & 8) != 0 ? errors2 : default, AuxBackend.Cpu);
            return all == some
                && gradient2.SequenceEqual((wanted & 1) != 0 ? gradient : new float[rows * tasks])
                && losses2.SequenceEqual((wanted & 2) != 0 ? losses : new double[rows])
                && counts2.SequenceEqual((wanted & 4) != 0 ? counts : new int[tasks])
                && errors2.SequenceEqual((wanted & 8) != 0 ? errors : new float[tasks]);
        });

    [Fact]
    public void A_batch_is_the_mean_of_its_transitions() => Gen.Select(Gen.Int[2, 60], Gen.Int[1, 140], Gen.Int[0, 1000]).Sample(
        (rows, tasks, seed) =>
        {
            var batch = new TdBatch(rows, tasks, seed);
            var (gradient, one) = (new float[rows * tasks], new float[tasks]);
            var loss = Run(batch, Given.Features, false, false, gradient, default, default, default, AuxBackend.Cpu);
            var mean = 0.0;
            for (var b = 0; b < rows; b++)
            {
                var row = (b * tasks)..((b + 1) * tasks);
                mean += IndicatorTd.Run(
                    batch.Prediction[row], batch.Next[row], batch.Done.AsSpan(b, 1),
                    Indicators.Threshold(batch.Features[row], batch.Thresholds),
                    tasks, Discount, Start.Current, false, one) / rows;
                for (var t = 0; t < tasks; t++)
                {
                    if (Math.Abs(one[t] / rows - gradient[row.Start.Value + t]) > 1e-6)
                        return false;
                }
            }

            return Math.Abs(mean - loss) <= 1e-12;
        });
}
