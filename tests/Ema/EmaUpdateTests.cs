using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Ema;

public class EmaUpdateTests
{
    private const float Canary = 12345.678f;

    private static readonly double[] Decays = [0, 1e-9, 0.25, 0.5, 0.500001, 0.9, 0.999, 0.9999, 1 - 1e-9, 1];

    public static TheoryData<Runner, string> Matrix =>
        new MatrixTheoryData<Runner, string>(BackendMatrix.All, ["float32", "bfloat16", "float16"]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_in_double(Runner runner, string dtype)
    {
        foreach (var length in (int[])[0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 255, 1000, 4099, 140_003])
        {
            foreach (var offset in length > 5000 ? (int[])[1] : [0, 1, 3])
            {
                foreach (var decay in length > 5000 ? [0.25, 0.999] : Decays)
                    Check(runner, dtype, length, offset, decay);
            }
        }
    }

    private static void Check(Runner runner, string dtype, int length, int offset, double decay)
    {
        var random = new Random(length + offset);
        var source = Enumerable.Range(0, length + offset).Select(_ => Value(random)).ToArray();
        var average = Enumerable.Range(0, offset + length + 1).Select(_ => Value(random)).ToArray();
        average[^1] = Canary;
        var before = (float[])average.Clone();
        var widened = new float[source.Length];

        runner.Run(backend =>
        {
            var target = average.AsSpan(offset, length);
            switch (dtype)
            {
                case "float32":
                    source.CopyTo(widened, 0);
                    EmaUpdate.Run(target, source.AsSpan(offset), decay, backend);
                    break;
                case "bfloat16":
                    var narrow = source.Select(value => (BFloat16)value).ToArray();
                    widened = [.. narrow.Select(value => (float)value)];
                    EmaUpdate.Run(target, narrow.AsSpan(offset), decay, backend);
                    break;
                default:
                    var half = source.Select(value => (Half)value).ToArray();
                    widened = [.. half.Select(value => (float)value)];
                    EmaUpdate.Run(target, half.AsSpan(offset), decay, backend);
                    break;
            }
        });

        Assert.Equal(before[..offset], average[..offset]);
        Assert.Equal(Canary, average[^1]);
        for (var i = offset; i < offset + length; i++)
        {
            var (e, p) = (before[i], widened[i]);
            var expected = (float)Formula(e, p, decay);
            var ulps = Tolerances.Ulps(average[i], expected, MathF.Max(MathF.Abs(e), MathF.Abs(p)));
            Assert.True(
                ulps <= Tolerances.EmaUpdateUlps,
                $"{runner} {dtype} n={length} +{offset} decay={decay}: e={e:R} p={p:R} gave {average[i]:R}, not {expected:R}");
        }
    }

    // Independent of the kernels and of their reference: the textbook formula. The weight is a float32, as documented; what that rounding
    // costs is checked against the closed form below.
    private static double Formula(double e, double p, double decay)
    {
        var weight = (double)(float)(1 - decay);
        return weight < 0.5 ? (1 - weight) * e + weight * p : (float)decay * e + (1 - (float)decay) * p;
    }

    private static float Value(Random random) => random.Next(8) switch
    {
        0 => 0,
        1 => (float)random.NextDouble() * 1e-6f,
        2 => (float)(random.NextDouble() - 0.5) * 1e4f,
        _ => (float)(random.NextDouble() - 0.5) * 2,
    };

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        var random = new Random(2);
        foreach (var length in (int[])[1, 7, 33, 1023, 200_003])
        {
            var source = Enumerable.Range(0, length).Select(_ => Value(random)).ToArray();
            var average = Enumerable.Range(0, length).Select(_ => Value(random)).ToArray();
            foreach (var decay in Decays)
            {
                var expected = Updated(BackendMatrix.Scalar);
                foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
                    Assert.Equal(Bits(expected), Bits(Updated(runner)));

                float[] Updated(Runner runner)
                {
                    var copy = (float[])average.Clone();
                    runner.Run(backend => EmaUpdate.Run(copy, source, decay, backend));
                    return copy;
                }
            }
        }
    }

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    [Theory]
    [MemberData(nameof(Runners))]
    public void Special_values_follow_the_rule(Runner runner)
    {
        var (inf, nan, max) = (float.PositiveInfinity, float.NaN, float.MaxValue);
        (float E, float P)[] equal =
            [(0f, 0f), (-0f, 0f), (0f, -0f), (-0f, -0f), (inf, inf), (-inf, -inf), (max, max), (float.Epsilon, float.Epsilon)];
        foreach (var decay in (double[])[0.25, 0.5, 0.9, 0.9999])
        {
            foreach (var (e, p) in equal)
                Assert.Equal(BitConverter.SingleToInt32Bits(e), BitConverter.SingleToInt32Bits(One(e, p, decay)));
            Assert.True(float.IsNaN(One(nan, 1, decay)));
            Assert.True(float.IsNaN(One(1, nan, decay)));
            Assert.True(float.IsNaN(One(nan, nan, decay)));
            // Beyond float32 every backend gives the infinity or the NaN that float32 arithmetic gives.
            foreach (var (e, p) in ((float, float)[])[(1, inf), (inf, 1), (inf, -inf), (float.MinValue, max)])
            {
                var (weight, difference) = ((float)(1 - decay), p - e);
                var expected = weight < 0.5f ? e + weight * difference : p - (float)decay * difference;
                Assert.False(float.IsFinite(expected));
                Assert.Equal(expected, One(e, p, decay));
            }
        }

        // β = 0 copies bits, whatever they are; β = 1 does not even look.
        foreach (var value in (float[])[0f, -0f, inf, nan, max, float.Epsilon])
        {
            foreach (var e in (float[])[1f, -0f, inf, nan, -max])
            {
                Assert.Equal(BitConverter.SingleToInt32Bits(value), BitConverter.SingleToInt32Bits(One(e, value, 0)));
                Assert.Equal(BitConverter.SingleToInt32Bits(e), BitConverter.SingleToInt32Bits(One(e, value, 1)));
            }
        }

        float One(float e, float p, double decay)
        {
            // Twenty copies: every width meets the value in its vectors and in what is left over.
            var average = Enumerable.Repeat(e, 20).ToArray();
            runner.Run(backend => EmaUpdate.Run(average, Enumerable.Repeat(p, 20).ToArray(), decay, backend));
            Assert.All(average, value => Assert.Equal(BitConverter.SingleToInt32Bits(average[0]), BitConverter.SingleToInt32Bits(value)));
            return average[0];
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Every_sixteen_bit_pattern_widens_exactly(Runner runner)
    {
        var halves = MemoryMarshal.Cast<ushort, Half>(Enumerable.Range(0, 65536).Select(bits => (ushort)bits).ToArray()).ToArray();
        var brains = Enumerable.Range(0, 65536).Select(bits => BFloat16.FromBits((ushort)bits)).ToArray();
        var (fromHalf, fromBrain) = (new float[65536], new float[65536]);

        runner.Run(backend =>
        {
            EmaUpdate.Run(fromHalf, halves, 0, backend);
            EmaUpdate.Run(fromBrain, brains, 0, backend);
        });

        for (var i = 0; i < 65536; i++)
        {
            Assert.Equal((float)halves[i], fromHalf[i]);
            Assert.Equal((float)brains[i], fromBrain[i]);
        }
    }

    [Theory]
    [InlineData(0.5)]
    [InlineData(0.99)]
    [InlineData(0.9999)] // 1f − 0.9999f is off by 1.7e-4 of itself, which this bound would not forgive
    public void Many_updates_meet_the_closed_form(double decay)
    {
        const int Steps = 2000;
        var average = new float[3];

        for (var step = 0; step < Steps; step++)
            EmaUpdate.Run(average, [1f, -2f, 0f], decay);

        var accumulated = 1 - Math.Pow(decay, Steps);
        Assert.Equal(accumulated, average[0], 2e-5 * accumulated);
        Assert.Equal(-2 * accumulated, average[1], 4e-5 * accumulated);
        Assert.Equal(0f, average[2]);
    }

    [Fact]
    public void The_result_lies_between_average_and_source() => Gen.Select(Gen.Float[-1e6f, 1e6f], Gen.Float[-1e6f, 1e6f], Gen.Double[0, 1])
        .Sample((e, p, decay) =>
        {
            var average = new[] { e };
            EmaUpdate.Run(average, [p], decay);
            var slack = MathF.BitIncrement(MathF.Max(MathF.Abs(e), MathF.Abs(p))) - MathF.Max(MathF.Abs(e), MathF.Abs(p));
            return average[0] >= MathF.Min(e, p) - slack && average[0] <= MathF.Max(e, p) + slack;
        });

    [Fact]
    public void Cutting_a_tensor_anywhere_changes_no_bit() => Gen
        .Select(Gen.Float[-10, 10].Array[2, 200], Gen.Int[0, 200], Gen.Double[0, 1])
        .Sample((source, cut, decay) =>
        {
            cut = Math.Min(cut, source.Length);
            var average = source.Reverse().ToArray();
            var whole = (float[])average.Clone();
            EmaUpdate.Run(whole, source, decay);
            EmaUpdate.Run(average.AsSpan(0, cut), source.AsSpan(0, cut), decay);
            EmaUpdate.Run(average.AsSpan(cut), source.AsSpan(cut), decay);
            return Bits(whole).SequenceEqual(Bits(average));
        });

    [Fact]
    public void Tensor_spans_of_equal_layout_are_averaged()
    {
        var average = Tensor.Create<float>([0, 0, 0, 0, 0, 0], [2, 3]);
        var source = Tensor.Create<float>([1, 2, 3, 4, 5, 6], [2, 3]);

        EmaUpdate.Run(average, source, 0.5);

        Assert.Equal(2.5f, average[1, 1]);
        EmaUpdate.Run(Tensor.Create<float>([], [0, 3]), Tensor.Create<float>([], [0, 3]), 0.5);
    }

    [Fact]
    public void Tensor_spans_of_another_layout_are_refused()
    {
        var average = Tensor.Create<float>([1, 2, 3, 4, 5, 6], [2, 3]);
        var wide = Tensor.Create<float>(new float[12], [2, 6]);

        Assert.Contains(
            "[3, 2]",
            Assert.Throws<ArgumentException>(() => EmaUpdate.Run(average, Tensor.Create<float>(new float[6], [3, 2]), 0.5)).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => EmaUpdate.Run(average, wide.AsTensorSpan().Slice([0..2, 0..3]), 0.5));
        Assert.Throws<ArgumentException>(() => EmaUpdate.Run(average, Tensor.Transpose(Tensor.Create<float>(new float[6], [3, 2])), 0.5));
        Assert.Equal(5f, average[1, 1]);
    }

    [Fact]
    public void Lengths_must_agree()
    {
        var average = new float[] { 1, 2 };

        var error = Assert.Throws<ArgumentException>(() => EmaUpdate.Run(average, new float[3], 0.5));

        Assert.Contains("3 elements", error.Message, StringComparison.Ordinal);
        Assert.Equal([1, 2], average);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(-1e-9)]
    [InlineData(1.0000001)]
    [InlineData(double.PositiveInfinity)]
    public void A_decay_lies_within_the_unit_interval(double decay)
    {
        var average = new float[] { 1 };

        Assert.Equal("decay", Assert.Throws<ArgumentOutOfRangeException>(() => EmaUpdate.Run(average, [2f], decay)).ParamName);
        Assert.Equal([1], average);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(0, 3)]
    [InlineData(3, 0)]
    public void Overlap_is_refused(int averageAt, int sourceAt)
    {
        var memory = new float[] { 1, 2, 3, 4, 5, 6, 7 };

        Assert.Contains("overlaps", Assert.Throws<ArgumentException>(
            () => EmaUpdate.Run(memory.AsSpan(averageAt, 4), memory.AsSpan(sourceAt, 4), 0.5)).Message, StringComparison.Ordinal);
        Assert.Equal([1, 2, 3, 4, 5, 6, 7], memory);
    }

    [Fact]
    public void Overlap_of_another_element_type_is_refused()
    {
        var memory = new float[8];

        Assert.Throws<ArgumentException>(
            () => EmaUpdate.Run(memory.AsSpan(0, 4), MemoryMarshal.Cast<float, BFloat16>(memory.AsSpan(2, 2)), 0.5));
        EmaUpdate.Run(memory.AsSpan(0, 4), MemoryMarshal.Cast<float, BFloat16>(memory.AsSpan(4, 2)), 0.5); // beside it is fine
    }

    [Theory]
    [InlineData(AuxBackend.Cuda)]
    [InlineData(AuxBackend.Ilgpu)]
    public void A_backend_that_is_not_there_or_not_for_host_memory_is_never_replaced_silently(AuxBackend backend)
    {
        var expected = EmaUpdate.IsSupported(backend, out var reason) ? "the tensors are on cpu" : reason;

        var error = Assert.Throws<BackendUnavailableException>(() => EmaUpdate.Run(new float[1], new float[1], 0.5, backend));

        Assert.Equal((backend, expected, "EmaUpdate"), (error.Backend, error.Reason, error.Operation));
    }

    [Fact]
    public void Numbers_that_are_no_backend_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaUpdate.Run(new float[1], new float[1], 0.5, (AuxBackend)77));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaUpdate.IsSupported((AuxBackend)77, out _));
        Assert.True(EmaUpdate.IsSupported(AuxBackend.Auto, out _));
    }

    internal static int[] Bits(float[] values) => [.. values.Select(BitConverter.SingleToInt32Bits)];
}
