using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Optimization;

public class AdamWUpdateTests
{
    private const float Canary = 12345.678f;

    private static readonly AdamWSettings[] Settings =
    [
        new() { WeightDecay = 0.01 },
        new() { Step = 1000, LearningRate = 0.1, WeightDecay = 0.1, Decoupled = false },
        new() { Step = 7, Beta1 = 0, Beta2 = 0, Epsilon = 1e-3 },
        new() { Step = 3, Beta1 = 0.3, Beta2 = 0.6, Maximize = true, WeightDecay = 0.5 },
        new() { Step = 100_000_000, Beta1 = 0.95, Beta2 = 0.9999 },
        new() { Step = 2, LearningRate = 0 },
    ];

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, string> Matrix =>
        new MatrixTheoryData<Runner, string>(BackendMatrix.All, ["float32", "bfloat16", "float16"]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_in_double(Runner runner, string gradientType)
    {
        foreach (var length in (int[])[0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 70_003])
        {
            foreach (var offset in length > 5000 ? (int[])[1] : [0, 1, 3])
            {
                foreach (var settings in length > 5000 ? Settings[..1] : Settings)
                {
                    foreach (var scale in settings == Settings[0] && length < 5000 ? (double[])[1, 1 / 1024.0, -0.3] : [0.5])
                        Check(runner, gradientType, length, offset, settings, scale);
                }
            }
        }
    }

    private static void Check(Runner runner, string gradientType, int length, int offset, AdamWSettings settings, double scale)
    {
        var random = new Random(length + offset);
        var state = new State(random, length, offset);
        var before = state.Copy();
        var gradient = Enumerable.Range(0, length + offset).Select(_ => Value(random)).ToArray();
        var widened = Run(runner, state, gradient, gradientType, length, offset, settings, scale);

        foreach (var (now, old) in new[] { (state.P, before.P), (state.M, before.M), (state.V, before.V) })
        {
            Assert.Equal(old[..offset], now[..offset]);
            Assert.Equal(Canary, now[^1]);
        }

        for (var i = offset; i < offset + length; i++)
        {
            var (p, m, v, g) = (before.P[i], before.M[i], before.V[i], (double)(float)(widened[i] * scale));
            var expected = Formula(p, m, v, g, settings);
            var largestG = Math.Max(Math.Abs(g), settings.Decoupled ? 0 : settings.WeightDecay * Math.Abs(p));
            var denominator = Math.Sqrt(expected.V / (1 - Math.Pow(settings.Beta2, settings.Step))) + settings.Epsilon;
            var move =
                settings.LearningRate * Math.Max(Math.Abs(m), largestG) / (1 - Math.Pow(settings.Beta1, settings.Step)) / denominator;
            AssertClose(expected.M, state.M[i], Math.Max(Math.Abs(m), largestG), "m");
            AssertClose(expected.V, state.V[i], Math.Max(v, largestG * largestG), "v");
            // Where penalty and gradient cancel, the direction depends on bits that a float32 does not have; a test below has the exact
            // bits.
            if (settings.Decoupled || Math.Abs(g + settings.WeightDecay * p) > 0.3 * largestG)
                AssertClose(expected.P, state.P[i], Math.Max(Math.Abs(p), move), "p");

            Assert.True(state.V[i] >= 0);

            void AssertClose(double wanted, float actual, double size, string what)
            {
                var ulps = Tolerances.Ulps(actual, (float)wanted, (float)size);
                Assert.True(
                    ulps <= Tolerances.AdamWUpdateUlps,
                    $"{runner} {gradientType} n={length} +{offset} {settings} scale={scale}: "
                    + $"p={p:R} m={m:R} v={v:R} g={g:R} gave {what}={actual:R}, "
                    + $"not {wanted:R}: {ulps} ulps");
            }
        }
    }

    // Independent of the kernels and of their reference: the papers' formulas.
    private static (double P, double M, double V) Formula(double p, double m, double v, double g, AdamWSettings s)
    {
        g = s.Maximize ? -g : g;
        g += s.Decoupled ? 0 : s.WeightDecay * p;
        m = s.Beta1 * m + (1 - s.Beta1) * g;
        v = s.Beta2 * v + (1 - s.Beta2) * g * g;
        var (m̂, v̂) = (m / (1 - Math.Pow(s.Beta1, s.Step)), v / (1 - Math.Pow(s.Beta2, s.Step)));
        p -= s.Decoupled ? s.LearningRate * s.WeightDecay * p : 0;
        return (p - s.LearningRate * m̂ / (Math.Sqrt(v̂) + s.Epsilon), m, v);
    }

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        var random = new Random(2);
        foreach (var length in (int[])[1, 7, 33, 1023, 100_003])
        {
            var state = new State(random, length, 0);
            var gradient = Enumerable.Range(0, length).Select(_ => Value(random)).ToArray();
            foreach (var type in (string[])["float32", "bfloat16", "float16"])
            {
                foreach (var settings in Settings)
                {
                    var expected = Stepped(BackendMatrix.Scalar);
                    foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
                        Assert.Equal(expected.Bits(), Stepped(runner).Bits());

                    State Stepped(Runner runner)
                    {
                        var copy = state.Copy();
                        Run(runner, copy, gradient, type, length, 0, settings, 0.7);
                        return copy;
                    }
                }
            }
        }
    }

    public static TheoryData<Runner> CpuRunners => [.. BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu)];

    [Theory]
    [MemberData(nameof(CpuRunners))]
    public void The_bits_are_those_of_the_documented_operations(Runner runner)
    {
        var random = new Random(5);
        foreach (var s in Settings)
        {
            var state = new State(random, 100, 0);
            var before = state.Copy();
            var gradient = Enumerable.Range(0, 100).Select(_ => Value(random)).ToArray();

            Run(runner, state, gradient, "float32", 100, 0, s, 0.3);

            var root = Math.Sqrt(1 - Math.Pow(s.Beta2, s.Step));
            var (scale, κ) = ((float)(s.Maximize ? -0.3 : 0.3), s.Decoupled ? 0f : (float)s.WeightDecay);
            var (w1, w2, ε, λ) = ((float)(1 - s.Beta1), (float)(1 - s.Beta2), (float)(s.Epsilon * root),
                s.Decoupled ? (float)(s.LearningRate * s.WeightDecay) : 0f);
            var α = (float)(s.LearningRate * root / (1 - Math.Pow(s.Beta1, s.Step)));
            for (var i = 0; i < 100; i++)
            {
                var (p, m, v) = (before.P[i], before.M[i], before.V[i]);
                var g = MathF.FusedMultiplyAdd(κ, p, scale * gradient[i]);
                m = MathF.FusedMultiplyAdd(w1, g, MathF.FusedMultiplyAdd(-w1, m, m));
                v = MathF.FusedMultiplyAdd(w2 * g, g, MathF.FusedMultiplyAdd(-w2, v, v));
                p = MathF.FusedMultiplyAdd(-α, m / (MathF.Sqrt(v) + ε), MathF.FusedMultiplyAdd(-λ, p, p));
                Assert.Equal((Bits(p), Bits(m), Bits(v)), (Bits(state.P[i]), Bits(state.M[i]), Bits(state.V[i])));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Special_values_follow_the_rule(Runner runner)
    {
        var (inf, nan) = (float.PositiveInfinity, float.NaN);
        foreach (var bad in (float[])[inf, -inf, nan])
        {
            var (p, m, v) = One(1, 0, 0, bad);
            Assert.True(float.IsNaN(p) && !float.IsFinite(m) && !float.IsFinite(v));
        }

        Assert.Equal((1f, 0f, 0f), One(1, 0, 0, 0));           // nothing to do: 0 / (0 + ε)
        Assert.Equal((0f, 0f, 0f), One(0, 0, 0, 0));
        Assert.True(float.IsNaN(One(1, 0, 0, 0, new() { Epsilon = 0 }).P)); // 0 / 0, as documented

        // A square beyond float32 is an infinite second moment: no step, and no NaN.
        var (moved, _, second) = One(1, 0, 0, 1e30f);
        Assert.Equal((1f, inf), (moved, second));

        (float P, float M, float V) One(float p, float m, float v, float g, AdamWSettings? settings = null)
        {
            // Twenty copies: every width meets the value in its vectors and in what is left over.
            var (ps, ms, vs) = (Enumerable.Repeat(p, 20).ToArray(), Enumerable.Repeat(m, 20).ToArray(), Enumerable.Repeat(v, 20).ToArray());
            runner.Run(backend => AdamWUpdate.Run(ps, Enumerable.Repeat(g, 20).ToArray(), ms, vs, settings ?? new(), 1, backend));
            foreach (var values in new[] { ps, ms, vs })
                Assert.All(values, value => Assert.Equal(Bits(values[0]), Bits(value)));
            return (ps[0], ms[0], vs[0]);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_constant_gradient_is_followed_at_the_learning_rate(Runner runner)
    {
        float[] p = [1, 1, 1], m = [0, 0, 0], v = [0, 0, 0];
        for (var t = 1; t <= 2000; t++)
            runner.Run(backend => AdamWUpdate.Run(p, [1e-3f, -2, 50], m, v, new() { Step = t, LearningRate = 1e-3 }, 1, backend));

        // m̂ = g and v̂ = g² at every step, so each step is the learning rate, in the gradient's direction.
        Assert.Equal(1 - 2, p[0], 1e-3);
        Assert.Equal(1 + 2, p[1], 1e-3);
        Assert.Equal(1 - 2, p[2], 1e-3);
        Assert.Equal(2500 * (1 - Math.Pow(0.999, 2000)), v[2], 1e-3 * 2500);
    }

    [Fact]
    public void Without_a_gradient_of_its_own_a_parameter_shrinks_by_weight_decay()
    {
        float[] p = [8];
        for (var t = 1; t <= 100; t++)
            AdamWUpdate.Run(p, [0f], new float[1], new float[1], new() { Step = t, LearningRate = 0.1, WeightDecay = 0.5 });

        Assert.Equal(8 * Math.Pow(1 - 0.05, 100), p[0], 1e-6);
    }

    [Fact]
    public void Maximising_is_minimising_the_negative() => Gen.Select(Gen.Float[-10, 10].Array[1, 70], Gen.Int[1, 100_000], Gen.Bool)
        .Sample((gradient, t, decoupled) =>
        {
            var (up, down) = (new State(new Random(t), gradient.Length, 0), new State(new Random(t), gradient.Length, 0));
            var settings = new AdamWSettings { Step = t, WeightDecay = 0.1, Decoupled = decoupled };
            AdamWUpdate.Run(State.Values(up.P), gradient, State.Values(up.M), State.Values(up.V), settings with { Maximize = true });
            var negative = gradient.Select(g => -g).ToArray();
            AdamWUpdate.Run(State.Values(down.P), negative, State.Values(down.M), State.Values(down.V), settings);
            return up.Bits().SequenceEqual(down.Bits());
        });

    [Fact]
    public void Cutting_a_tensor_anywhere_changes_no_bit() => Gen
        .Select(Gen.Float[-10, 10].Array[2, 200], Gen.Int[0, 200], Gen.Int[1, 10_000], Gen.Double[0, 0.99], Gen.Double[0, 0.9999])
        .Sample((gradient, cut, t, beta1, beta2) =>
        {
            cut = Math.Min(cut, gradient.Length);
            var settings = new AdamWSettings { Step = t, Beta1 = beta1, Beta2 = beta2, WeightDecay = 0.01 };
            var (whole, cutInTwo) = (new State(new Random(t), gradient.Length, 0), new State(new Random(t), gradient.Length, 0));
            AdamWUpdate.Run(State.Values(whole.P), gradient, State.Values(whole.M), State.Values(whole.V), settings);
            foreach (var range in new[] { ..cut, cut.. })
            {
                var s = cutInTwo;
                AdamWUpdate.Run(State.Values(s.P)[range], gradient.AsSpan()[range], State.Values(s.M)[range], State.Values(s.V)[range],
                    settings);
            }

            return whole.Bits().SequenceEqual(cutInTwo.Bits());
        });

    [Fact]
    public void A_step_never_exceeds_the_bound_of_the_paper() => Gen
        .Select(Gen.Float[-1e3f, 1e3f].Array[30], Gen.Double[0, 0.99], Gen.Double[0.1, 0.9999])
        .Sample((gradients, beta1, beta2) =>
        {
            // Kingma and Ba 2015, section 2.1: |step| ≤ α · max(1, (1 − β₁) / √(1 − β₂)), here with the bias corrections' share.
            float[] p = [0], m = [0], v = [0];
            for (var t = 1; t <= gradients.Length; t++)
            {
                var before = p[0];
                AdamWUpdate.Run(p, [gradients[t - 1]], m, v, new() { Step = t, Beta1 = beta1, Beta2 = beta2, LearningRate = 1 });
                var bound = BoundOfStep(t, beta1, beta2);
                if (!(Math.Abs(p[0] - before) <= bound * 1.00001))
                    return false;
            }

            return true;
        });

    // By Cauchy and Schwarz: |Σ a_i g_i| ≤ √(Σ a_i² / b_i) · √(Σ b_i g_i²), where a and b are the moments' weights.
    private static double BoundOfStep(int t, double beta1, double beta2)
    {
        var sum = 0.0;
        for (var i = 0; i < t; i++)
        {
            var (a, b) = ((1 - beta1) * Math.Pow(beta1, i), (1 - beta2) * Math.Pow(beta2, i));
            sum += a == 0 ? 0 : a * a / b;
        }

        return Math.Sqrt(sum) * Math.Sqrt(1 - Math.Pow(beta2, t)) / (1 - Math.Pow(beta1, t)) + 1e-4;
    }

    [Theory]
    [InlineData("gradient")]
    [InlineData("firstMoment")]
    [InlineData("secondMoment")]
    public void Lengths_must_agree(string which)
    {
        float[] Of(string name) => name == which ? [1, 1, 1] : [1, 1];
        var (p, g, m, v) = (Of("parameter"), Of("gradient"), Of("firstMoment"), Of("secondMoment"));

        var error = Assert.Throws<ArgumentException>(() => AdamWUpdate.Run(p, g, m, v, new()));

        Assert.Equal((which, true), (error.ParamName, error.Message.Contains("3 elements", StringComparison.Ordinal)));
        Assert.All([.. p, .. g, .. m, .. v], value => Assert.Equal(1, value));
    }

    public static TheoryData<string, AdamWSettings> Wrong => new()
    {
        { "Step", new() { Step = 0 } },
        { "Step", default }, // no settings at all
        { "LearningRate", new() { LearningRate = -1e-9 } },
        { "LearningRate", new() { LearningRate = double.NaN } },
        { "LearningRate", new() { LearningRate = double.PositiveInfinity } },
        { "Beta1", new() { Beta1 = 1 } },
        { "Beta1", new() { Beta1 = -0.1 } },
        { "Beta1", new() { Beta1 = double.NaN } },
        { "Beta2", new() { Beta2 = 1 } },
        { "Beta2", new() { Beta2 = double.NaN } },
        { "Epsilon", new() { Epsilon = -1 } },
        { "Epsilon", new() { Epsilon = double.NaN } },
        { "WeightDecay", new() { WeightDecay = -1 } },
        { "WeightDecay", new() { WeightDecay = double.NaN } },
    };

    [Theory]
    [MemberData(nameof(Wrong))]
    public void Settings_out_of_range_are_refused(string field, AdamWSettings settings)
    {
        float[] p = [1], m = [1], v = [1];

        var error = Assert.Throws<ArgumentOutOfRangeException>(() => AdamWUpdate.Run(p, [1f], m, v, settings));

        Assert.Equal($"settings.{field}", error.ParamName);
        Assert.Equal([1, 1, 1], [p[0], m[0], v[0]]);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    public void A_scale_is_a_finite_number(double scale)
    {
        float[] p = [1];

        Assert.Equal("gradientScale", Assert.Throws<ArgumentOutOfRangeException>(
            () => AdamWUpdate.Run(p, [1f], new float[1], new float[1], new(), scale)).ParamName);
        Assert.Equal(1, p[0]);
    }

    [Theory]
    [InlineData(0, 3, 6, 9)]
    [InlineData(0, 4, 3, 9)]
    [InlineData(0, 4, 8, 8)]
    [InlineData(8, 4, 0, 5)]
    public void Overlap_is_refused(int parameter, int gradient, int first, int second)
    {
        var memory = Enumerable.Range(0, 16).Select(i => (float)i).ToArray();

        Assert.Contains("overlaps", Assert.Throws<ArgumentException>(() => AdamWUpdate.Run(
            memory.AsSpan(parameter, 4), memory.AsSpan(gradient, 4), memory.AsSpan(first, 4), memory.AsSpan(second, 4), new())).Message,
            StringComparison.Ordinal);
        Assert.Equal(Enumerable.Range(0, 16).Select(i => (float)i), memory);
        AdamWUpdate.Run(memory.AsSpan(0, 4), memory.AsSpan(4, 4), memory.AsSpan(8, 4), memory.AsSpan(12, 4), new()); // side by side is fine
    }

    [Fact]
    public void Overlap_of_another_element_type_is_refused()
    {
        var memory = new float[8];

        Assert.Throws<ArgumentException>(() => AdamWUpdate.Run(
            memory.AsSpan(0, 2), MemoryMarshal.Cast<float, BFloat16>(memory.AsSpan(1, 1)), memory.AsSpan(2, 2), memory.AsSpan(4, 2),
            new()));
        AdamWUpdate.Run(
            memory.AsSpan(0, 2), MemoryMarshal.Cast<float, BFloat16>(memory.AsSpan(6, 1)), memory.AsSpan(2, 2), memory.AsSpan(4, 2), new());
    }

    [Fact]
    public void A_backend_that_is_not_there_is_never_replaced_silently()
    {
        Assert.False(AdamWUpdate.IsSupported(AuxBackend.Ilgpu, out var reason));

        var error = Assert.Throws<BackendUnavailableException>(
            () => AdamWUpdate.Run(new float[1], new float[1], new float[1], new float[1], new(), 1, AuxBackend.Ilgpu));

        Assert.Equal((AuxBackend.Ilgpu, reason, "AdamWUpdate"), (error.Backend, error.Reason, error.Operation));
    }

    private static float[] Run(
        Runner runner, State state, float[] gradient, string type, int length, int offset, AdamWSettings settings, double scale)
    {
        var widened = gradient;
        runner.Run(backend =>
        {
            Span<float> Part(float[] values) => values.AsSpan(offset, length);
            switch (type)
            {
                case "float32":
                    AdamWUpdate.Run(
                        Part(state.P), gradient.AsSpan(offset, length), Part(state.M), Part(state.V), settings, scale, backend);
                    break;
                case "bfloat16":
                    var narrow = gradient.Select(value => (BFloat16)value).ToArray();
                    widened = [.. narrow.Select(value => (float)value)];
                    AdamWUpdate.Run(Part(state.P), narrow.AsSpan(offset, length), Part(state.M), Part(state.V), settings, scale, backend);
                    break;
                default:
                    var half = gradient.Select(value => (Half)value).ToArray();
                    widened = [.. half.Select(value => (float)value)];
                    AdamWUpdate.Run(Part(state.P), half.AsSpan(offset, length), Part(state.M), Part(state.V), settings, scale, backend);
                    break;
            }
        });
        return widened;
    }

    internal static float Value(Random random) => random.Next(8) switch
    {
        0 => 0,
        1 => (float)random.NextDouble() * 1e-6f,
        2 => (float)(random.NextDouble() - 0.5) * 1e4f,
        _ => (float)(random.NextDouble() - 0.5) * 2,
    };

    internal static int Bits(float value) => BitConverter.SingleToInt32Bits(value);

    /// <summary>A parameter and its moments, with a canary behind each.</summary>
    private sealed class State(float[] p, float[] m, float[] v)
    {
        public State(Random random, int length, int offset)
            : this(Random(random, length + offset), Random(random, length + offset), Random(random, length + offset))
        {
            for (var i = 0; i < length + offset; i++)
                V[i] *= V[i];
        }

        public float[] P { get; } = p;

        public float[] M { get; } = m;

        public float[] V { get; } = v;

        public State Copy() => new((float[])P.Clone(), (float[])M.Clone(), (float[])V.Clone());

        public static Span<float> Values(float[] values) => values.AsSpan(0, values.Length - 1);

        public int[] Bits() => [.. P.Concat(M).Concat(V).Select(AdamWUpdateTests.Bits)];

        private static float[] Random(Random random, int length) =>
            [.. Enumerable.Range(0, length).Select(_ => Value(random)), Canary];
    }
}
