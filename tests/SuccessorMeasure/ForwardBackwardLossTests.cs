using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.SuccessorMeasure;

public class ForwardBackwardLossTests
{
    private static readonly FbOptions Options = new() { Discount = 0.9, Convention = FbConvention.MetaMotivo, Orthonormality = 0.7 };

    /// <summary>Every target, convention, normalisation and form.</summary>
    private static readonly FbOptions[] Variants =
    [
        Options,
        Options with { Form = FbForm.Tiled },
        Options with { Convention = FbConvention.ControllableAgent, Normalised = true },
        Options with { Target = FbTarget.Minimum, Convention = FbConvention.ControllableAgent },
        Options with { Target = FbTarget.Penalised, Penalty = 0.3, Normalised = true },
        Options with { Target = FbTarget.Penalised, Penalty = 0, Form = FbForm.Gram },
        Options with { Orthonormality = 0, Discount = 0 },
        Options with { Orthonormality = 0, Target = FbTarget.Minimum },
    ];

    public static TheoryData<Runner, DType> Matrix =>
        new MatrixTheoryData<Runner, DType>(BackendMatrix.All, [DType.Float32, DType.BFloat16, DType.Float64]);

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula(Runner runner, DType dtype)
    {
        foreach (var (shape, seed) in ((FbShape, int)[])
            [(new(2, 2, 1), 1), (new(1, 3, 2), 2), (new(2, 5, 3), 3), (new(3, 17, 7), 4), (new(2, 97, 16), 5), (new(2, 130, 33), 6)])
        {
            var batch = FbBatch.Random(shape, seed);
            var rounded = dtype == DType.BFloat16 ? batch.Rounded() : batch;
            foreach (var options in shape.Count > 90 && runner.Width is 1 or 4 ? Variants[..4] : Variants)
            {
                FbResult? actual = null;
                runner.Run(backend => actual = batch.Run(options, dtype, backend));

                var error = actual!.DistanceTo(rounded.Formula(options));
                var allowed = dtype == DType.Float64 ? Tolerances.ForwardBackwardLossDouble : Tolerances.ForwardBackwardLossFloat;
                Assert.True(error <= allowed, $"{runner} {dtype} {shape} {options}: off by {error:E1}");
            }
        }
    }

    [Fact]
    public void Bfloat16_is_widened_exactly()
    {
        var batch = FbBatch.Random(new(2, 150, 20), 1);
        foreach (var options in Variants)
        {
            var (narrow, wide) = (batch.Run(options, DType.BFloat16), batch.Rounded().Run(options, DType.Float32));

            Assert.Equal(wide.Terms, narrow.Terms);
            Assert.Equal(wide.ForwardGradient, narrow.ForwardGradient);
            Assert.Equal(wide.BackwardGradient, narrow.BackwardGradient);
        }
    }

    [Theory]
    [InlineData(1.0)]
    [InlineData(1e-1)]
    [InlineData(1e-2)]
    [InlineData(1e-3)]
    public void Forms_agree_also_near_convergence(double ratio)
    {
        // Several blocks, segments and chunks: 1,100 transitions.
        foreach (var shape in (FbShape[])[new(2, 1100, 24), new(2, 300, 100), new(1, 97, 5)])
        {
            var batch = FbBatch.NearConvergence(shape, ratio, Options.Discount, seed: 3);
            var direct = batch.Run(Options, DType.Float64, AuxBackend.Reference);
            var (forwardScale, backwardScale) = Uncancelled(batch);
            var squares = WithoutTargets(batch);
            foreach (var form in (FbForm[])[FbForm.Gram, FbForm.Tiled])
            {
                foreach (var dtype in (DType[])[DType.Float64, DType.Float32])
                {
                    var (gradients, loss) = dtype == DType.Float64 ? (1e-12, ratio == 1 ? 1e-12 : 1e-9) : (1e-6, 1e-5);
                    var actual = batch.Run(Options with { Form = form }, dtype);

                    Assert.InRange(Largest(actual.ForwardGradient, direct.ForwardGradient) / forwardScale, 0, gradients);
                    Assert.InRange(Largest(actual.BackwardGradient, direct.BackwardGradient) / backwardScale, 0, gradients);
                    // Of the part that cancels, and of the whole.
                    Assert.InRange(Math.Abs(actual.Terms.OffDiagonal / direct.Terms.OffDiagonal - 1), 0, loss);
                    Assert.InRange(Math.Abs(actual.Terms.Total / direct.Terms.Total - 1), 0, loss);
                    // What is left of squares a million times as large keeps fewer digits; of those squares it is off by no more.
                    if (dtype == DType.Float64)
                        Assert.InRange(Math.Abs(actual.Terms.OffDiagonal - direct.Terms.OffDiagonal) / squares, 0, 1e-12);
                }
            }
        }
    }

    // The largest elements of F(BᵀB) / N and of B(ΣFᵀF + 2λBᵀB) / N: what the gradients would be without the targets.
    private static (double Forward, double Backward) Uncancelled(FbBatch batch)
    {
        var (heads, n, d) = batch.Shape;
        double[] forward = Gram(batch.Forward), backward = Gram(batch.Backward);
        return (
            Largest(batch.Forward, backward),
            Largest(batch.Backward, [.. forward.Zip(backward, (f, b) => f + 2 * Options.Orthonormality * b)]));

        double[] Gram(double[] rows)
        {
            var gram = new double[d * d];
            for (var at = 0; at < rows.Length * d; at++)
            {
                var (row, k, m) = (at / (d * d), at / d % d, at % d);
                gram[k * d + m] += rows[row * d + k] * rows[row * d + m];
            }

            return gram;
        }

        double Largest(double[] rows, double[] gram)
        {
            return Enumerable.Range(0, rows.Length)
                .Max(at => Math.Abs(Enumerable.Range(0, d).Sum(m => rows[at / d * d + m] * gram[m * d + at % d]))) / (n * (n - 1.0));
        }
    }

    // The off-diagonal part as it would be without targets.
    private static double WithoutTargets(FbBatch batch)
    {
        var (heads, n, _) = batch.Shape;
        var rows = from e in Enumerable.Range(0, heads) from i in Enumerable.Range(0, n) select (e, i);
        return rows.Sum(row => Enumerable.Range(0, n).Where(j => j != row.i)
            .Sum(j => Math.Pow(batch.Dot(batch.Forward, row.e * n + row.i, batch.Backward, j), 2))) / (2 * n * (n - 1.0));
    }

    private static double Largest(double[] actual, double[] expected) => actual.Zip(expected, (a, b) => Math.Abs(a - b)).Max();

    public static TheoryData<Runner, int> GradientCases =>
        new MatrixTheoryData<Runner, int>([new(AuxBackend.Reference), new(AuxBackend.Cpu)], Enumerable.Range(0, Variants.Length));

    [Theory]
    [MemberData(nameof(GradientCases))]
    public void Gradients_are_the_slopes_of_the_loss(Runner runner, int variant)
    {
        const double Step = 1e-5;
        var (batch, options) = (FbBatch.Random(new(2, 7, 4), 8), Variants[variant]);
        var gradients = batch.Run(options, DType.Float64, runner.Backend);

        Check(batch.Forward, gradients.ForwardGradient);
        Check(batch.Backward, gradients.BackwardGradient);

        void Check(double[] values, double[] expected)
        {
            for (var i = 0; i < values.Length; i++)
            {
                var value = values[i];
                values[i] = value + Step;
                var above = batch.Run(options, DType.Float64, runner.Backend).Terms.Total;
                values[i] = value - Step;
                var below = batch.Run(options, DType.Float64, runner.Backend).Terms.Total;
                values[i] = value;
                Assert.Equal(expected[i], (above - below) / (2 * Step), 1e-8 * Math.Max(1, Math.Abs(expected[i])));
            }
        }
    }

    [Fact]
    public void The_number_of_threads_changes_no_bit()
    {
        var batch = FbBatch.Random(new(2, 1300, 40), 4);
        foreach (var options in (FbOptions[])[Options, Options with { Target = FbTarget.Minimum }])
        {
            var one = Threads(1);
            foreach (var threads in (int[])[1, 2, 3, 7])
            {
                var several = Threads(threads);
                Assert.Equal(one.Terms, several.Terms);
                Assert.Equal(one.ForwardGradient, several.ForwardGradient);
                Assert.Equal(one.BackwardGradient, several.BackwardGradient);
            }

            FbResult Threads(int threads)
            {
                FbResult? result = null;
                new Runner(AuxBackend.Cpu, 8, threads).Run(backend => result = batch.Run(options, DType.Float32, backend));
                return result!;
            }
        }
    }

    [Fact]
    public void A_penalty_of_one_half_is_the_minimum_of_two_heads()
    {
        var batch = FbBatch.Random(new(2, 140, 9), 6);

        var minimum = batch.Run(Options with { Target = FbTarget.Minimum }, DType.Float64);
        var penalised = batch.Run(Options with { Target = FbTarget.Penalised, Penalty = 0.5 }, DType.Float64);

        Assert.InRange(penalised.DistanceTo(minimum), 0, 1e-12);
    }

    [Fact]
    public void Conventions_differ_in_the_orthonormality_scale_and_in_the_value_of_the_diagonal()
    {
        var batch = FbBatch.Random(new(2, 60, 9), 7);
        var meta = batch.Run(Options, DType.Float64);
        var controllable = batch.Run(Options with { Convention = FbConvention.ControllableAgent }, DType.Float64);
        var halved = batch.Run(
            Options with { Convention = FbConvention.ControllableAgent, Orthonormality = Options.Orthonormality / 2 }, DType.Float64);

        Assert.Equal(2 * meta.Terms.OrthonormalityOffDiagonal, controllable.Terms.OrthonormalityOffDiagonal, 1e-12);
        Assert.Equal(2 * meta.Terms.OrthonormalityDiagonal, controllable.Terms.OrthonormalityDiagonal, 1e-12);
        Assert.Equal(meta.Terms.OffDiagonal, controllable.Terms.OffDiagonal);
        var targets = 2 * Enumerable.Range(0, 60).Average(i => batch.Target(i, i, Options));
        Assert.Equal(meta.Terms.Diagonal - targets, controllable.Terms.Diagonal, 1e-12);
        Assert.InRange(FbResult.Distance(halved.ForwardGradient, meta.ForwardGradient), 0, 1e-15);
        Assert.InRange(FbResult.Distance(halved.BackwardGradient, meta.BackwardGradient), 0, 1e-15);
    }

    [Fact]
    public void Order_of_the_transitions_does_not_matter() =>
        Gen.Select(Gen.Int[2, 40], Gen.Int[1, 12], Gen.Int[1, 3], Gen.Int[0, Variants.Length - 1], Gen.Int[0, 1000]).Sample(
            (n, d, heads, variant, seed) =>
            {
                var batch = FbBatch.Random(new(heads, n, d), seed);
                var shuffled = new FbBatch(batch.Shape);
                var order = Enumerable.Range(0, n).ToArray();
                new Random(seed).Shuffle(order);
                for (var i = 0; i < n; i++)
                {
                    shuffled.Done[i] = batch.Done[order[i]];
                    Array.Copy(batch.Backward, order[i] * d, shuffled.Backward, i * d, d);
                    Array.Copy(batch.TargetBackward, order[i] * d, shuffled.TargetBackward, i * d, d);
                    for (var e = 0; e < heads; e++)
                    {
                        Array.Copy(batch.Forward, (e * n + order[i]) * d, shuffled.Forward, (e * n + i) * d, d);
                        Array.Copy(batch.TargetForward, (e * n + order[i]) * d, shuffled.TargetForward, (e * n + i) * d, d);
                    }
                }

                var (one, other) = (batch.Run(Variants[variant], DType.Float64), shuffled.Run(Variants[variant], DType.Float64));

                return Math.Abs(one.Terms.Total - other.Terms.Total) <= 1e-10 * Math.Max(1, Math.Abs(one.Terms.Total))
                    && Enumerable.Range(0, n * d).All(i => Near(
                        other.BackwardGradient[i], one.BackwardGradient[order[i / d] * d + i % d]))
                    && Enumerable.Range(0, heads * n * d).All(i => Near(
                        other.ForwardGradient[i], one.ForwardGradient[(i / (n * d) * n + order[i / d % n]) * d + i % d]));

                static bool Near(double a, double b) => Math.Abs(a - b) <= 1e-10 * Math.Max(1, Math.Abs(b));
            },
            iter: 60);

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_anywhere_gives_a_NaN_loss(Runner runner)
    {
        foreach (var options in Variants.Where(options => options.Discount > 0))
        {
            for (var which = 0; which < 4; which++)
            {
                foreach (var at in (int[])[0, 100, 5 * 20 - 1])
                {
                    var batch = FbBatch.Random(new(2, 20, 5), 2);
                    Array.Clear(batch.Done);
                    var values = which switch
                    {
                        0 => batch.Forward,
                        1 => batch.Backward,
                        2 => batch.TargetForward,
                        _ => batch.TargetBackward,
                    };
                    values[Math.Min(at, values.Length - 1)] = double.NaN;

                    FbResult? result = null;
                    runner.Run(backend => result = batch.Run(options, DType.Float32, backend));

                    Assert.True(double.IsNaN(result!.Terms.Total), $"{runner} {options}: NaN in input {which} gave {result.Terms}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Targets_of_terminal_transitions_are_not_read(Runner runner)
    {
        foreach (var options in Variants)
        {
            var batch = FbBatch.Random(new(2, 30, 5), 2);
            batch.Done[3] = true;
            var expected = batch.Formula(options);
            for (var i = 0; i < 30; i++)
            {
                for (var k = 0; k < 10 && batch.Done[i]; k++)
                    batch.TargetForward[k / 5 * 150 + i * 5 + k % 5] = double.NaN;
            }

            FbResult? actual = null;
            runner.Run(backend => actual = batch.Run(options, DType.Float32, backend));

            Assert.InRange(actual!.DistanceTo(expected), 0, Tolerances.ForwardBackwardLossFloat);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Nothing_around_the_gradients_is_written(Runner runner)
    {
        const float Canary = 12345.5f;
        var batch = FbBatch.Random(new(2, 99, 13), 2);
        foreach (var options in Variants)
        {
            float[] df = [.. Enumerable.Repeat(Canary, 2 * 99 * 13 + 5)], db = [.. Enumerable.Repeat(Canary, 99 * 13 + 5)];
            runner.Run(backend => ForwardBackwardLoss.Run(
                FbBatch.Floats(batch.Forward), FbBatch.Floats(batch.Backward), FbBatch.Floats(batch.TargetForward),
                FbBatch.Floats(batch.TargetBackward), batch.Done, batch.Shape, options, df.AsSpan(3, 2 * 99 * 13), db.AsSpan(3, 99 * 13),
                backend));

            Assert.All((float[])[.. df[..3], .. df[^2..], .. db[..3], .. db[^2..]], value => Assert.Equal(Canary, value));
            Assert.DoesNotContain(Canary, df[3..^2]);
            Assert.DoesNotContain(Canary, db[3..^2]);
        }
    }
}
