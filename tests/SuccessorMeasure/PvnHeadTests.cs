using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class PvnHeadTests
{
    private const double Discount = 0.9;

    private static readonly (int Rows, int Features, int Tasks, int Actions)[] Sizes =
    [
        (1, 1, 1, 1), (3, 5, 2, 4), (7, 17, 9, 3), (16, 64, 12, 2), (33, 24, 13, 6), (12, 49, 33, 5), (50, 97, 100, 6), (9, 600, 25, 18),
        (40, 530, 7, 1),
    ];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, Given> Matrix => new MatrixTheoryData<Runner, Given>(BackendMatrix.All, Enum.GetValues<Given>());

    /// <summary>
    /// The published expression, in double: all heads of all actions, one of them selected; the target's heads averaged after the product.
    /// </summary>
    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_published_expression_in_double(Runner runner, Given given)
    {
        foreach (var (rows, features, tasks, actions) in Sizes)
        {
            foreach (var normalised in (bool[])[false, true])
            {
                var batch = new PvnBatch(rows, features, tasks, actions, seed: rows + features);
                var result = batch.Run(runner, given, Discount, normalised);
                var expected = batch.Expect(given, Discount, normalised);
                var where = $"{runner} {given} B={rows} F={features} T={tasks} A={actions}";
                Close(where, [expected.Loss], [result.Loss], expected.Loss + 1);
                Close(where, expected.RowLosses, result.RowLosses, expected.RowLosses.Max() + 1);
                Close(where, expected.FeatureGradient, result.FeatureGradient.Select(x => (double)x), expected.FeatureScale);
                Close(where, expected.WeightGradient, result.WeightGradient.Select(x => (double)x), expected.WeightScale);
            }
        }

        static void Close(string where, IEnumerable<double> expected, IEnumerable<double> actual, double scale)
        {
            foreach (var (e, a) in expected.Zip(actual))
                Assert.True(Math.Abs(e - a) <= Tolerances.PvnHeadRelative * scale, $"{where}: {a:R}, not {e:R} (scale {scale:R})");
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Gradients_are_the_slopes_of_the_loss(Runner runner)
    {
        const float Step = 1 / 16f; // the loss is a parabola in each of them, so central differences leave rounding only
        var batch = new PvnBatch(6, 10, 5, 3, seed: 1);
        var result = batch.Run(runner, Given.Bits, Discount, false);
        for (var i = 0; i < batch.Features.Length; i += 3)
            Assert.Equal(Slope(batch.Features, i), result.FeatureGradient[i], 1e-5);
        for (var i = 0; i < batch.Weights.Length; i += 7)
            Assert.Equal(Slope(batch.Weights, i), result.WeightGradient[i], 1e-5);

        double Slope(float[] values, int i)
        {
            var before = values[i];
            values[i] = before + Step;
            var (above, upper) = (batch.Run(runner, Given.Bits, Discount, false).Loss, values[i]);
            values[i] = before - Step;
            var (below, lower) = (batch.Run(runner, Given.Bits, Discount, false).Loss, values[i]);
            values[i] = before;
            return (above - below) / ((double)upper - lower);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Heads_that_nobody_took_get_no_gradient(Runner runner)
    {
        var batch = new PvnBatch(8, 30, 11, 4, seed: 2);
        batch.Actions.AsSpan().Replace(2, 1);
        batch.Weights.AsSpan().Slice(2 * 30, 30).Fill(float.NaN); // task 0, action 2: not read either

        var result = batch.Run(runner, Given.Features, Discount, false);

        Assert.False(double.IsNaN(result.Loss));
        for (var t = 0; t < 11; t++)
            Assert.Equal(new float[30], result.WeightGradient.AsSpan((t * 4 + 2) * 30, 30).ToArray());
        Assert.DoesNotContain(float.NaN, result.FeatureGradient);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_mean_over_actions_is_the_mean(Runner runner)
    {
        foreach (var (_, features, tasks, actions) in Sizes)
        {
            var batch = new PvnBatch(1, features, tasks, actions, seed: 3);
            var mean = new float[tasks * features + 1];
            mean[^1] = 777;
            runner.Run(backend => PvnHead.MeanOverActions(batch.Weights, batch.Shape, mean.AsSpan(0, tasks * features), backend));
            Assert.Equal(777, mean[^1]);
            for (var t = 0; t < tasks; t++)
            {
                for (var f = 0; f < features; f++)
                    Assert.Equal(
                        Enumerable.Range(0, actions).Average(a => (double)batch.Weights[(t * actions + a) * features + f]),
                        mean[t * features + f], 1e-6);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_shows_in_the_loss_and_only_where_it_belongs(Runner runner)
    {
        foreach (var which in (string[])["features", "nextFeatures", "weights", "targetMean", "indicators"])
        {
            var batch = new PvnBatch(5, 20, 7, 2, seed: 4, doneRate: 0);
            batch.Actions[3] = 1;
            batch.Actions[4] = 0;
            switch (which)
            {
                case "features":
                    batch.Features[3 * 20 + 19] = float.NaN;
                    break;
                case "nextFeatures":
                    batch.NextFeatures[3 * 20 + 2] = float.NaN;
                    break;
                case "weights":
                    batch.Weights[(6 * 2 + 1) * 20 + 5] = float.NaN; // task 6, action 1
                    break;
                case "targetMean":
                    batch.TargetMean[6 * 20] = float.NaN;
                    break;
                default:
                    batch.Td.Features[3 * 7 + 6] = float.NaN;
                    break;
            }

            var result = batch.Run(runner, Given.Features, Discount, false);

            Assert.True(double.IsNaN(result.Loss), which);
            Assert.True(double.IsNaN(result.RowLosses[3]), which);
            Assert.Equal(which == "targetMean", double.IsNaN(result.RowLosses[4]));
            Assert.True(float.IsNaN(result.FeatureGradient[3 * 20]), which);
            Assert.True(float.IsNaN(result.WeightGradient[(6 * 2 + 1) * 20 + 19]), which);
            Assert.Equal(which is "features" or "nextFeatures", float.IsNaN(result.WeightGradient[(0 * 2 + 1) * 20 + 19]));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_terminal_transition_does_not_count_its_next_features(Runner runner)
    {
        var batch = new PvnBatch(6, 20, 9, 2, seed: 4, doneRate: 1);
        var expected = batch.Run(runner, Given.Features, Discount, false).Loss;
        batch.NextFeatures.AsSpan().Fill(float.NaN);
        Assert.Equal(expected, batch.Run(runner, Given.Features, Discount, false).Loss);
    }

    [Fact]
    public void Products_of_a_framework_and_the_epilogue_give_what_the_whole_gives()
    {
        var batch = new PvnBatch(29, 40, 21, 5, seed: 6);
        var groups = ActionGroups.Of(batch.Actions, 5);
        var (prediction, next) = (new float[29 * 21], new float[29 * 21]);
        for (var i = 0; i < 29; i++)
        {
            for (var t = 0; t < 21; t++)
            {
                var row = groups.Order[i];
                prediction[i * 21 + t] = (float)batch.Dot(batch.Features, row, batch.Weights, t * 5 + batch.Actions[row]);
                next[i * 21 + t] = (float)batch.Dot(batch.NextFeatures, i, batch.TargetMean, t);
            }
        }

        foreach (var backend in (AuxBackend[])[AuxBackend.Cpu, AuxBackend.Reference])
        {
            var (gradient, rowLosses) = (new float[29 * 21], new double[29]);
            var loss = PvnHead.RunGrouped(
                groups, prediction, next, batch.Td.Done, batch.Td.Sets(Given.Bits), 21, Discount, Start.Current, true, gradient,
                new TdStatistics { RowLosses = rowLosses }, backend);

            var whole = batch.Run(new Runner(backend), Given.Bits, Discount, true);
            Assert.Equal(whole.Loss, loss, 1e-5);
            for (var b = 0; b < 29; b++)
                Assert.Equal(whole.RowLosses[b], rowLosses[b], 1e-5);
            for (var b = 0; b < 29; b++)
            {
                for (var f = 0; f < 40; f++)
                {
                    var place = groups.Order.IndexOf(b);
                    var sum = Enumerable.Range(0, 21)
                        .Sum(t => (double)gradient[place * 21 + t] * batch.Weights[(t * 5 + batch.Actions[b]) * 40 + f]);
                    Assert.Equal(sum, whole.FeatureGradient[b * 40 + f], 1e-6);
                }
            }
        }
    }

    [Fact]
    public void Groups_are_a_stable_sort() =>
        Gen.Select(Gen.Int[1, 300], Gen.Int[0, 500], Gen.Int[0, 99]).Sample((actionCount, rows, seed) =>
    {
        var random = new Random(seed);
        int[] actions = [.. Enumerable.Range(0, rows).Select(_ => random.Next(actionCount))];
        var groups = ActionGroups.Of(actions, actionCount);
        var sorted = Enumerable.Range(0, rows).OrderBy(row => actions[row]); // OrderBy is stable
        return groups.Order.SequenceEqual(sorted.ToArray())
            && groups.RowCount == rows && groups.ActionCount == actionCount && groups.Offsets.Length == actionCount + 1
            && groups.Offsets[0] == 0 && groups.Offsets[^1] == rows
            && Enumerable.Range(0, actionCount).All(a => groups.Offsets[a + 1] - groups.Offsets[a] == actions.Count(x => x == a));
    });

    [Fact]
    public void Threads_change_no_bit()
    {
        foreach (var (rows, features, tasks, actions) in Sizes.Append((300, 512, 40, 6)))
        {
            var batch = new PvnBatch(rows, features, tasks, actions, seed: 9);
            var one = batch.Run(new Runner(AuxBackend.Cpu, 8), Given.Features, Discount, false);
            var three = batch.Run(new Runner(AuxBackend.Cpu, 8, Threads: 3), Given.Features, Discount, false);
            Assert.Equal(BitConverter.DoubleToInt64Bits(one.Loss), BitConverter.DoubleToInt64Bits(three.Loss));
            Assert.Equal(EmaUpdateTests.Bits(one.FeatureGradient), EmaUpdateTests.Bits(three.FeatureGradient));
            Assert.Equal(EmaUpdateTests.Bits(one.WeightGradient), EmaUpdateTests.Bits(three.WeightGradient));
        }
    }

    [Fact]
    public void The_order_of_a_batch_does_not_matter() => Gen.Select(Gen.Int[2, 40], Gen.Int[0, 99]).Sample((rows, seed) =>
    {
        var batch = new PvnBatch(rows, 21, 10, 3, seed);
        var result = batch.Run(new Runner(AuxBackend.Cpu), Given.Features, Discount, false);
        var turned = batch.Reversed().Run(new Runner(AuxBackend.Cpu), Given.Features, Discount, false);
        return Math.Abs(result.Loss - turned.Loss) < 1e-12
            && result.FeatureGradient.Chunk(21).Reverse().SelectMany(row => row).SequenceEqual(turned.FeatureGradient)
            && result.WeightGradient.Zip(turned.WeightGradient).All(pair => Math.Abs(pair.First - pair.Second) < 1e-5);
    });
}
