using System.Numerics;
using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Optimization;

public class GradientNormTests
{
    private static readonly int[] Lengths = [0, 1, 2, 7, 8, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097, 10_000, 300_001];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Agrees_with_the_exact_sum(Runner runner)
    {
        foreach (var length in Lengths)
        {
            foreach (var offset in (int[])[0, 1, 3])
            {
                var random = new Random(length);
                var gradient = Enumerable.Range(0, length + offset).Select(_ => AdamWUpdateTests.Value(random)).ToArray();
                var brains = gradient.Select(value => (BFloat16)value).ToArray();
                var halves = gradient.Select(value => (Half)value).ToArray();
                runner.Run(backend =>
                {
                    Check(gradient, GradientNorm.Run(gradient.AsSpan(offset), backend));
                    Check([.. brains.Select(value => (float)value)], GradientNorm.Run(brains.AsSpan(offset), backend));
                    Check([.. halves.Select(value => (float)value)], GradientNorm.Run(halves.AsSpan(offset), backend));
                });

                void Check(float[] values, GradientSummary found)
                {
                    var exact = Exact(values.AsSpan(offset));
                    Assert.True(
                        Math.Abs(found.SumOfSquares - exact) <= Tolerances.GradientNormRelative * exact,
                        $"{length} +{offset}: {found}, not {exact}");
                    Assert.Equal((Math.Sqrt(found.SumOfSquares), 0L, true), (found.Norm, found.NonFinite, found.IsFinite));
                }
            }
        }
    }

    // In integers: a finite float32 is a multiple of 2^-149.
    private static double Exact(ReadOnlySpan<float> values)
    {
        var sum = BigInteger.Zero;
        foreach (var value in values)
        {
            var bits = BitConverter.SingleToInt32Bits(value);
            var exponent = (bits >> 23) & 0xFF;
            var mantissa = (BigInteger)((bits & 0x7FFFFF) | (exponent == 0 ? 0 : 0x800000)) << Math.Max(exponent - 1, 0);
            sum += mantissa * mantissa;
        }

        return (double)(sum >> 150) / Math.Pow(2, 148)
            + (double)(sum & ((BigInteger.One << 150) - 1)) / Math.Pow(2, 149) / Math.Pow(2, 149);
    }

    [Theory]
    [MemberData(nameof(AdamWUpdateTests.CpuRunners), MemberType = typeof(AdamWUpdateTests))]
    public void The_bits_are_those_of_the_documented_order(Runner runner)
    {
        foreach (var length in Lengths)
        {
            var random = new Random(length);
            var gradient = Enumerable.Range(0, length).Select(_ => AdamWUpdateTests.Value(random)).ToArray();
            var chunks = gradient.Chunk(4096).Select(chunk => Folded(chunk.Select(value => (double)value * value), 32));

            var expected = Folded(chunks, 256);

            runner.Run(backend => Assert.Equal(expected, GradientNorm.Run(gradient, backend).SumOfSquares));
        }

        static double Folded(IEnumerable<double> terms, int count)
        {
            var sums = new double[count];
            foreach (var (i, term) in terms.Index())
                sums[i % count] += term;
            for (var half = count / 2; half > 0; half /= 2)
                sums = [.. sums.Take(half).Zip(sums.Skip(half), (left, right) => left + right)];
            return sums[0];
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void What_is_not_finite_is_counted(Runner runner)
    {
        foreach (var length in (int[])[1, 40, 5000, 300_001])
        {
            var gradient = Enumerable.Repeat(1f, length).ToArray();
            gradient[^1] = float.NaN;
            gradient[length / 2] = float.NegativeInfinity;
            gradient[0] = float.PositiveInfinity;
            runner.Run(backend =>
            {
                var found = GradientNorm.Run(gradient, backend);
                Assert.Equal((gradient.Count(value => !float.IsFinite(value)), false), (found.NonFinite, found.IsFinite));
                Assert.False(double.IsFinite(found.Norm));
            });
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_greatest_gradient_has_a_norm(Runner runner)
    {
        var gradient = Enumerable.Repeat(float.MaxValue, 100).Append(float.Epsilon).ToArray();

        runner.Run(backend => Assert.Equal(10.0 * float.MaxValue, GradientNorm.Run(gradient, backend).Norm, 1e-12 * float.MaxValue));
        runner.Run(backend => Assert.Equal(float.Epsilon, GradientNorm.Run([float.Epsilon], backend).Norm));
    }

    [Fact]
    public void A_scaled_gradient_has_a_scaled_norm() => Gen.Select(Gen.Float[-1e10f, 1e10f].Array[1, 100], Gen.Int[-20, 20])
        .Sample((gradient, exponent) =>
        {
            var scaled = gradient.Select(value => MathF.ScaleB(value, exponent)).ToArray();
            var (norm, scaledNorm) = (GradientNorm.Run(gradient).Norm, GradientNorm.Run(scaled).Norm);
            return Math.Abs(Math.ScaleB(norm, exponent) - scaledNorm) <= 1e-12 * scaledNorm + 1e-40;
        });

    [Fact]
    public void A_backend_that_is_not_there_is_never_replaced_silently()
    {
        Assert.False(GradientNorm.IsSupported(AuxBackend.Ilgpu, out var reason));

        var error = Assert.Throws<BackendUnavailableException>(() => GradientNorm.Run(new float[1], AuxBackend.Ilgpu));

        Assert.Equal((AuxBackend.Ilgpu, reason, "GradientNorm"), (error.Backend, error.Reason, error.Operation));
    }
}
