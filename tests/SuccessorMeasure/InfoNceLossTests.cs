using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class InfoNceLossTests
{
    private static readonly InfoNceOptions[] Variants =
    [
        new(),
        InfoNceOptions.JaxGcrl,
        InfoNceOptions.ControllableAgent,
        new() { Similarity = InfoNceSimilarity.NegativeSquaredDistance, Temperature = 4 },
        new() { Similarity = InfoNceSimilarity.Dot, Temperature = 3, LogSumExpPenalty = 0.2 },
        new() { Similarity = InfoNceSimilarity.Cosine, Temperature = 0.1, Direction = InfoNceDirection.Symmetric },
        new() { Direction = InfoNceDirection.Symmetric, LogSumExpPenalty = 0.1 },
        new() { Direction = InfoNceDirection.Symmetric, ExcludePositives = true, Similarity = InfoNceSimilarity.Dot, Temperature = 2 },
        new() { ExcludePositives = true, Temperature = 0.5 },
    ];

    public static TheoryData<Runner, DType> Matrix =>
        new MatrixTheoryData<Runner, DType>(BackendMatrix.All, [DType.Float32, DType.BFloat16, DType.Float64]);

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula(Runner runner, DType dtype)
    {
        foreach (var (n, d) in ((int, int)[])[(2, 1), (3, 2), (5, 3), (17, 7), (97, 16), (130, 33)])
        {
            var batch = InfoNceBatch.Random(n, d, seed: n);
            var rounded = dtype == DType.BFloat16 ? batch.Rounded() : batch;
            foreach (var options in n > 90 && runner.Width is 1 or 4 ? Variants[..3] : Variants)
            {
                InfoNceResult? actual = null;
                runner.Run(backend => actual = batch.Run(options, dtype, backend));

                var error = actual!.DistanceTo(rounded.Formula(options), n);
                var allowed = dtype == DType.Float64 ? Tolerances.InfoNceLossDouble : Tolerances.InfoNceLossFloat;
                Assert.True(error <= allowed, $"{runner} {dtype} n={n} d={d} {options}: off by {error:E1}");
            }
        }
    }

    [Fact]
    public void Several_segments_agree_with_the_reference()
    {
        var batch = InfoNceBatch.Random(1100, 12, seed: 3);
        foreach (var options in Variants)
        {
            var expected = batch.Run(options, DType.Float64, AuxBackend.Reference);

            Assert.InRange(batch.Run(options, DType.Float32).DistanceTo(expected, batch.Count), 0, Tolerances.InfoNceLossFloat);
            Assert.InRange(batch.Run(options, DType.Float64).DistanceTo(expected, batch.Count), 0, Tolerances.InfoNceLossDouble);
        }
    }

    public static TheoryData<AuxBackend, int> GradientCases =>
        new MatrixTheoryData<AuxBackend, int>([AuxBackend.Reference, AuxBackend.Cpu], Enumerable.Range(0, Variants.Length));

    [Theory]
    [MemberData(nameof(GradientCases))]
    public void Gradients_are_the_slopes_of_the_loss(AuxBackend backend, int variant)
    {
        const double Step = 1e-5;
        var (batch, options) = (InfoNceBatch.Random(9, 5, seed: 1), Variants[variant]);
        var gradients = batch.Run(options, DType.Float64, backend);

        Check(batch.Queries, gradients.QueryGradient);
        Check(batch.Keys, gradients.KeyGradient);

        void Check(double[] values, double[] expected)
        {
            for (var i = 0; i < values.Length; i++)
            {
                var value = values[i];
                values[i] = value + Step;
                var above = batch.Run(options, DType.Float64, backend).Terms.Total;
                values[i] = value - Step;
                var below = batch.Run(options, DType.Float64, backend).Terms.Total;
                values[i] = value;
                Assert.Equal(expected[i], (above - below) / (2 * Step), 2e-9);
            }
        }
    }

    [Fact]
    public void Bfloat16_is_widened_exactly()
    {
        var batch = InfoNceBatch.Random(150, 20, seed: 1);
        foreach (var options in Variants)
        {
            var (narrow, wide) = (batch.Run(options, DType.BFloat16), batch.Rounded().Run(options, DType.Float32));

            Assert.Equal(wide.Terms, narrow.Terms);
            Assert.Equal(wide.QueryGradient, narrow.QueryGradient);
            Assert.Equal(wide.KeyGradient, narrow.KeyGradient);
        }
    }

    [Fact]
    public void The_number_of_threads_changes_no_bit()
    {
        var batch = InfoNceBatch.Random(1300, 24, seed: 4);
        foreach (var options in Variants)
        {
            var one = Threads(1);
            foreach (var threads in (int[])[1, 2, 3, 7])
            {
                var several = Threads(threads);
                Assert.Equal(one.Terms, several.Terms);
                Assert.Equal(one.QueryGradient, several.QueryGradient);
                Assert.Equal(one.KeyGradient, several.KeyGradient);
            }

            InfoNceResult Threads(int threads)
            {
                InfoNceResult? result = null;
                new Runner(AuxBackend.Cpu, 8, threads).Run(backend => result = batch.Run(options, DType.Float32, backend));
                return result!;
            }
        }
    }

    [Fact]
    public void A_common_offset_costs_distances_no_accuracy()
    {
        // Without the centring, the squared norms of 40,000 would leave distances of about 1 three digits.
        var batch = InfoNceBatch.Random(200, 16, seed: 5, scale: 0.25, centre: 50);
        foreach (var options in Variants.Where(options => options.Similarity
            is InfoNceSimilarity.NegativeDistance or InfoNceSimilarity.NegativeSquaredDistance))
        {
            var error = batch.Run(options, DType.Float32).DistanceTo(batch.Formula(options), batch.Count);
            Assert.InRange(error, 0, Tolerances.InfoNceLossFloat);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Large_logits_do_not_overflow(Runner runner)
    {
        var batch = InfoNceBatch.Random(40, 8, seed: 5, scale: 100);
        foreach (var options in Variants)
        {
            InfoNceResult? actual = null;
            runner.Run(backend => actual = batch.Run(options, DType.Float32, backend));
            var expected = batch.Formula(options);

            // The softmax is all but one-hot here, and its logits have lost digits: what counts is that all is finite and near.
            Assert.InRange(actual!.DistanceTo(expected, batch.Count), 0, 5e-2);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Vectors_that_coincide_or_vanish_have_no_gradient_of_their_own(Runner runner)
    {
        foreach (var similarity in Enum.GetValues<InfoNceSimilarity>())
        {
            var batch = new InfoNceBatch(3, 2);
            ((double[])[0, 0, 1, 0, 0, 2]).CopyTo(batch.Queries, 0);
            ((double[])[0, 0, 1, 0, 1, 1]).CopyTo(batch.Keys, 0);
            var options = new InfoNceOptions { Similarity = similarity };

            InfoNceResult? actual = null;
            runner.Run(backend => actual = batch.Run(options, DType.Float32, backend));

            Assert.All(actual!.QueryGradient.Concat(actual.KeyGradient), value => Assert.True(double.IsFinite(value), $"{similarity}"));
            Assert.InRange(actual.DistanceTo(batch.Formula(options), batch.Count), 0, Tolerances.InfoNceLossFloat);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_anywhere_gives_a_NaN_loss(Runner runner)
    {
        foreach (var options in Variants)
        {
            foreach (var at in (int[])[0, 7, 59])
            {
                foreach (var inKeys in (bool[])[false, true])
                {
                    var batch = InfoNceBatch.Random(20, 3, seed: 6);
                    (inKeys ? batch.Keys : batch.Queries)[at] = double.NaN;

                    InfoNceResult? result = null;
                    runner.Run(backend => result = batch.Run(options, DType.Float32, backend));

                    Assert.True(double.IsNaN(result!.Terms.Total), $"{runner} {options}: {result.Terms}");
                }
            }
        }
    }

    [Fact]
    public void Order_of_the_pairs_does_not_matter() =>
        Gen.Select(Gen.Int[2, 40], Gen.Int[1, 12], Gen.Int[0, Variants.Length - 1], Gen.Int[0, 1000]).Sample((n, d, variant, seed) =>
        {
            var (batch, shuffled) = (InfoNceBatch.Random(n, d, seed), new InfoNceBatch(n, d));
            var order = Enumerable.Range(0, n).ToArray();
            new Random(seed).Shuffle(order);
            for (var i = 0; i < n; i++)
            {
                Array.Copy(batch.Queries, order[i] * d, shuffled.Queries, i * d, d);
                Array.Copy(batch.Keys, order[i] * d, shuffled.Keys, i * d, d);
            }

            var (one, other) = (batch.Run(Variants[variant], DType.Float64), shuffled.Run(Variants[variant], DType.Float64));

            return Math.Abs(one.Terms.Total - other.Terms.Total) <= 1e-11
                && Enumerable.Range(0, n * d).All(i =>
                    Math.Abs(other.QueryGradient[i] - one.QueryGradient[order[i / d] * d + i % d]) <= 1e-11
                    && Math.Abs(other.KeyGradient[i] - one.KeyGradient[order[i / d] * d + i % d]) <= 1e-11);
        }, iter: 60);

    [Fact]
    public void A_symmetric_loss_does_not_change_when_queries_and_keys_change_places()
    {
        foreach (var similarity in Enum.GetValues<InfoNceSimilarity>())
        {
            var options = new InfoNceOptions { Similarity = similarity, Direction = InfoNceDirection.Symmetric };
            var (batch, exchanged) = (InfoNceBatch.Random(110, 9, seed: 8), new InfoNceBatch(110, 9));
            batch.Queries.CopyTo(exchanged.Keys, 0);
            batch.Keys.CopyTo(exchanged.Queries, 0);

            var (one, other) = (batch.Run(options, DType.Float64), exchanged.Run(options, DType.Float64));

            Assert.Equal(one.Terms.Total, other.Terms.Total, 1e-12);
            Assert.InRange(FbResult.Distance(one.QueryGradient, other.KeyGradient), 0, 1e-12);
            Assert.InRange(FbResult.Distance(one.KeyGradient, other.QueryGradient), 0, 1e-12);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Nothing_around_the_gradients_is_written(Runner runner)
    {
        const float Canary = 12345.5f;
        var batch = InfoNceBatch.Random(99, 13, seed: 2);
        foreach (var options in Variants)
        {
            float[] dq = [.. Enumerable.Repeat(Canary, 99 * 13 + 5)], dk = [.. dq];
            runner.Run(backend => InfoNceLoss.Run(
                FbBatch.Floats(batch.Queries), FbBatch.Floats(batch.Keys), 99, 13, options, dq.AsSpan(3, 99 * 13), dk.AsSpan(3, 99 * 13),
                backend));

            Assert.All((float[])[.. dq[..3], .. dq[^2..], .. dk[..3], .. dk[^2..]], value => Assert.Equal(Canary, value));
            Assert.DoesNotContain(Canary, dq[3..^2]);
            Assert.DoesNotContain(Canary, dk[3..^2]);
        }
    }
}
