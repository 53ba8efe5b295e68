using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Ema;

/// <summary>Averages in bfloat16.</summary>
public class EmaRoundingTests
{
    private static readonly double[] Decays = [0, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1];
    private static readonly EmaRounding Forced = EmaRounding.Nearest(force: true);

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    public static TheoryData<Runner, string> Matrix =>
        new MatrixTheoryData<Runner, string>(BackendMatrix.All, ["float32", "bfloat16", "float16"]);

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_and_its_rounding(Runner runner, string dtype)
    {
        foreach (var length in (int[])[0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 1023, 1025, 2100, 140_003])
        {
            foreach (var offset in length > 5000 ? (int[])[1] : [0, 1, 3])
            {
                foreach (var decay in length > 1000 ? [0.25, 0.999] : Decays)
                {
                    Check(runner, dtype, length, offset, decay, EmaRounding.Stochastic(0x123456789abcdef0, 5_000_000_017));
                    Check(runner, dtype, length, offset, decay, Forced);
                }
            }
        }
    }

    private static void Check(Runner runner, string dtype, int length, int offset, double decay, EmaRounding rounding)
    {
        var random = new Random(length + offset);
        var average = Enumerable.Range(0, offset + length + 1).Select(_ => (BFloat16)Value(random)).ToArray();
        var before = (BFloat16[])average.Clone();
        var (source, widened) = Source(random, dtype, offset + length);

        runner.Run(backend =>
        {
            var target = average.AsSpan(offset, length);
            if (source is float[] floats)
                EmaUpdate.Run(target, floats.AsSpan(offset), decay, rounding, backend);
            else if (source is BFloat16[] brains)
                EmaUpdate.Run(target, brains.AsSpan(offset), decay, rounding, backend);
            else
                EmaUpdate.Run(target, ((Half[])source).AsSpan(offset), decay, rounding, backend);
        });

        Assert.Equal(Bits(before.AsSpan(0, offset)), Bits(average.AsSpan(0, offset)));
        Assert.Equal(before[^1].Bits, average[^1].Bits);
        for (var i = 0; i < length; i++)
        {
            var (e, p, actual) = ((float)before[offset + i], widened[offset + i], average[offset + i]);
            var exact = Exact(e, p, decay);
            var error = Math.Abs(actual - exact) / Unit(actual, exact, e, p);
            if (error > (rounding.IsStochastic ? Tolerances.EmaUpdateBFloat16Units : Tolerances.EmaUpdateBFloat16Units / 2)
                || (runner.Backend == AuxBackend.Cpu
                    && Rounded(Updated(e, p, decay), decay, rounding, i, before[offset + i]).Bits != actual.Bits))
                Assert.Fail($"{runner} {dtype} n={length} +{offset} decay={decay} i={i}: e={e:R} p={p:R} gave {actual}, exactly {exact:R}");
        }
    }

    // In double: the weight as documented, the rest exact to far below bfloat16.
    private static double Exact(double e, double p, double decay)
    {
        var weight = (double)(float)(1 - decay);
        return decay == 1 ? e : decay == 0 ? p : weight < 0.5 ? e + weight * (p - e) : p - (float)decay * (p - e);
    }

    // The last place of bfloat16 where the result lies, and a little of float32's where |e| or |p| do.
    private static double Unit(double actual, double exact, double e, double p)
    {
        static double Place(double value, int bits) => Math.ScaleB(1, Math.Max(Math.ILogB(Math.Max(value, 1e-30)), -126) - bits);
        return Place(Math.Max(Math.Abs(actual), Math.Abs(exact)), 7) + 2 * Place(Math.Max(Math.Abs(e), Math.Abs(p)), 23);
    }

    // The float32 arithmetic of EmaUpdate's documentation.
    private static float Updated(float e, float p, double decay)
    {
        var weight = (float)(1 - decay);
        return decay == 0 ? p : p == e ? e
            : weight < 0.5f ? MathF.FusedMultiplyAdd(weight, p - e, e) : MathF.FusedMultiplyAdd(-(float)decay, p - e, p);
    }

    // The documentation of EmaRounding, word by word.
    private static BFloat16 Rounded(float value, double decay, EmaRounding rounding, long i, BFloat16 before)
    {
        if (decay == 1)
            return before;
        if (!rounding.IsStochastic)
            return (BFloat16)value;
        var (low, high) = Philox.Block((uint)(i / 8), 0, (uint)rounding.Step, (uint)(rounding.Step >> 32), rounding.Seed);
        var bits = (uint)(((UInt128)high << 64 | low) >> (int)(16 * (i % 8))) & 0xFFFF;
        return BFloat16.FromBits((ushort)((BitConverter.SingleToUInt32Bits(value) + bits) >> 16));
    }

    private static (Array Source, float[] Widened) Source(Random random, string dtype, int length)
    {
        var values = Enumerable.Range(0, length).Select(_ => Value(random)).ToArray();
        switch (dtype)
        {
            case "float32":
                return (values, values);
            case "bfloat16":
                var brains = values.Select(value => (BFloat16)value).ToArray();
                return (brains, [.. brains.Select(value => (float)value)]);
            default:
                var halves = values.Select(value => (Half)value).ToArray();
                return (halves, [.. halves.Select(value => (float)value)]);
        }
    }

    private static float Value(Random random) => random.Next(8) switch
    {
        0 => 0,
        1 => (float)random.NextDouble() * 1e-4f,
        2 => (float)(random.NextDouble() - 0.5) * 1e4f,
        _ => (float)(random.NextDouble() - 0.5) * 2,
    };

    [Fact]
    public void Every_vector_width_and_thread_count_gives_the_same_bits()
    {
        var random = new Random(5);
        int[] lengths = [5, 0, 1023, 70_001, 9, 200_003];
        var sources = lengths.Select(length => Floats(random, length)).ToArray();
        var averages = lengths.Select(length => Brains(random, length)).ToArray();
        foreach (var rounding in (EmaRounding[])[EmaRounding.Stochastic(7, 11), Forced])
        {
            var expected = Updated(BackendMatrix.Scalar);
            foreach (var runner in BackendMatrix.All.Where(runner => runner.Backend == AuxBackend.Cpu))
                Assert.Equal(expected, Updated(runner));

            ushort[][] Updated(Runner runner)
            {
                var copies = averages.Select(average => (BFloat16[])average.Clone()).ToArray();
                using var group = EmaGroup.Pin<float, BFloat16>(ReadOnly(sources), Writable(copies));
                runner.Run(backend => group.Update([0.999], rounding, backend));
                return [.. copies.Select(copy => Bits(copy))];
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Several_averages_equal_several_runs_and_tensors_a_loop_bit_for_bit(Runner runner)
    {
        var random = new Random(6);
        int[] lengths = [1, 0, 2100, 3, 40_000, 15, .. Enumerable.Range(0, 1000).Select(i => i % 50)];
        double[] decays = [0.999, 0, 0.3, 1, 0.9999];
        var sources = lengths.Select(length => Floats(random, length)).ToArray();
        var averages = decays.Select(_ => lengths.Select(length => Brains(random, length)).ToArray()).ToArray();
        var expected = averages.Select(list => list.Select(average => (BFloat16[])average.Clone()).ToArray()).ToArray();
        using var group = EmaGroup.Pin<float, BFloat16>(ReadOnly(sources), [.. averages.Select(Writable)]);

        runner.Run(backend =>
        {
            group.Update(decays, EmaRounding.Stochastic(40, 3), backend);
            for (var k = 0; k < decays.Length; k++)
            {
                for (var i = 0; i < lengths.Length; i++)
                    EmaUpdate.Run(expected[k][i], sources[i], decays[k], EmaRounding.Stochastic(40 + (ulong)k, 3, i), backend);
            }
        });

        for (var k = 0; k < decays.Length; k++)
        {
            for (var i = 0; i < lengths.Length; i++)
                Assert.Equal(Bits(expected[k][i]), Bits(averages[k][i]));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public unsafe void Averages_of_both_types_mix(Runner runner)
    {
        var random = new Random(7);
        var source = Floats(random, 3000);
        var (wide, narrow) = (Floats(random, 3000), Brains(random, 3000));
        var (expectedWide, expectedNarrow) = ((float[])wide.Clone(), (BFloat16[])narrow.Clone());
        fixed (float* s = source, w = wide)
        fixed (BFloat16* n = narrow)
        {
            using var group = EmaGroup.FromViews(
                [TensorView.FromPointer(s, DType.Float32, [3000])],
                [TensorView.FromPointer(w, DType.Float32, [3000])], [TensorView.FromPointer(n, DType.BFloat16, [3000])]);
            runner.Run(backend => group.Update([0.9, 0.99], EmaRounding.Stochastic(1, 2), backend));
        }

        runner.Run(backend =>
        {
            EmaUpdate.Run(expectedWide, source, 0.9, backend);
            EmaUpdate.Run(expectedNarrow, source, 0.99, EmaRounding.Stochastic(2, 2), backend);
        });
        Assert.Equal(EmaUpdateTests.Bits(expectedWide), EmaUpdateTests.Bits(wide));
        Assert.Equal(Bits(expectedNarrow), Bits(narrow));
    }

    [Fact]
    public unsafe void Views_are_averaged_like_spans()
    {
        var (memory, expected, source) = (Brains(new(1), 50), Brains(new(1), 50), Floats(new(2), 50));
        fixed (BFloat16* e = memory)
        fixed (float* p = source)
        {
            var (average, values) = (TensorView.FromPointer(e, DType.BFloat16, [5, 10]), TensorView.FromPointer(p, DType.Float32, [5, 10]));
            EmaUpdate.Run(average, values, 0.9, EmaRounding.Stochastic(3, 4), AuxBackend.Reference);
            Assert.Throws<ArgumentException>(() => EmaUpdate.Run(average, values, 0.9));
        }

        EmaUpdate.Run(expected, source, 0.9, EmaRounding.Stochastic(3, 4), AuxBackend.Reference);
        Assert.Equal(Bits(expected), Bits(memory));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Special_values_follow_the_rule(Runner runner)
    {
        var (inf, nan) = (float.PositiveInfinity, float.NaN);
        foreach (var rounding in (EmaRounding[])[EmaRounding.Stochastic(3, 4), Forced])
        {
            foreach (var decay in (double[])[0.25, 0.9, 0.9999])
            {
                // What is bfloat16 already is not moved by any bits.
                foreach (var same in (float[])[0f, -0f, 1f, -3f, inf, -inf])
                    Assert.All(Twenty(same, same, decay, rounding), value => Assert.Equal(((BFloat16)same).Bits, value.Bits));
                Assert.All(Twenty(nan, 1, decay, rounding), value => Assert.True(float.IsNaN(value)));
                Assert.All(Twenty(1, nan, decay, rounding), value => Assert.True(float.IsNaN(value)));
                // What float32 arithmetic gives: an infinity, or, for decays below a half, NaN.
                Assert.All(Twenty(1, inf, decay, rounding), value => Assert.Equal(Updated(1, inf, decay), value));
                Assert.All(Twenty(-1, -inf, decay, rounding), value => Assert.Equal(Updated(-1, -inf, decay), value));
                Assert.All(Twenty(0f, -0f, decay, rounding), value => Assert.Equal(0, value.Bits));
            }

            Assert.All(Twenty(7, nan, 1, rounding), value => Assert.Equal(7f, value));
            // A NaN whose payload lies in the half that is cut off stays one.
            Assert.All(Twenty(7, BitConverter.UInt32BitsToSingle(0xFF800001), 0, rounding), value => Assert.Equal(0xFFC0, value.Bits));
            // Beyond the largest bfloat16: that, or infinity.
            Assert.All(Twenty(7, float.MaxValue, 0, rounding), value => Assert.True(value.Bits is 0x7F7F or 0x7F80));
        }

        BFloat16[] Twenty(float e, float p, double decay, EmaRounding rounding)
        {
            // Every width meets the value in its vectors and in what is left over.
            var average = Enumerable.Repeat((BFloat16)e, 20).ToArray();
            runner.Run(backend => EmaUpdate.Run(average, Enumerable.Repeat(p, 20).ToArray(), decay, rounding, backend));
            return average;
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Every_bfloat16_is_copied_as_it_is(Runner runner)
    {
        var source = Enumerable.Range(0, 65536).Select(bits => BFloat16.FromBits((ushort)bits)).ToArray();
        foreach (var rounding in (EmaRounding[])[EmaRounding.Stochastic(3, 4), Forced])
        {
            var average = new BFloat16[65536];
            runner.Run(backend => EmaUpdate.Run(average, source, 0, rounding, backend));
            for (var i = 0; i < 65536; i++)
                Assert.Equal(i | (float.IsNaN(source[i]) ? 0x40 : 0), average[i].Bits);
        }
    }

    [Fact]
    public void Stochastic_rounding_keeps_the_mean()
    {
        const int Count = 1 << 20;
        var source = new float[Count];
        var average = new BFloat16[Count];
        foreach (var part in (double[])[0.001, 0.25, 0.5, 0.9])
        {
            Array.Fill(source, (float)-(1 + part / 128)); // 1/128: the last place of bfloat16 at 1
            EmaUpdate.Run(average, source, 0, EmaRounding.Stochastic(9, 1));

            var away = average.Count(value => value == -(1 + 1f / 128));
            Assert.Equal(Count, away + average.Count(value => value == -1f));
            Assert.InRange((away - part * Count) / Math.Sqrt(part * (1 - part) * Count), -4, 4);
        }
    }

    [Fact]
    public void Bits_differ_from_step_to_step_seed_to_seed_tensor_to_tensor_and_average_to_average()
    {
        var source = Enumerable.Repeat(1f + 1f / 256, 4096).ToArray();
        EmaRounding[] all =
        [
            EmaRounding.Stochastic(1, 1), EmaRounding.Stochastic(1, 2), EmaRounding.Stochastic(1, 1 + (1L << 32)),
            EmaRounding.Stochastic(2, 1), EmaRounding.Stochastic(1UL << 32, 1), EmaRounding.Stochastic(1, 1, 1),
        ];
        var results = all.Select(rounding =>
        {
            var average = new BFloat16[4096];
            EmaUpdate.Run(average, source, 0, rounding);
            return average.Select(value => value != 1f).ToArray();
        }).ToArray();

        for (var i = 0; i < all.Length; i++)
        {
            // Two fair coins agree on half of the elements; and so do neighbours.
            Assert.InRange(results[i].Zip(results[i].Skip(1)).Count(pair => pair.First == pair.Second), 2048 - 160, 2048 + 160);
            for (var j = 0; j < i; j++)
                Assert.InRange(results[i].Zip(results[j]).Count(pair => pair.First == pair.Second), 2048 - 160, 2048 + 160);
        }
    }

    [Fact]
    public void The_result_is_a_neighbour_of_the_float32_result() => Gen
        .Select(Gen.Float[-1e6f, 1e6f], Gen.Float[-1e6f, 1e6f], Gen.Double[0, 1], Gen.ULong, Gen.Long[0, long.MaxValue])
        .Sample((start, p, decay, seed, step) =>
        {
            var average = new[] { (BFloat16)start };
            var wide = new[] { (float)average[0] };
            EmaUpdate.Run(average, [p], decay, EmaRounding.Stochastic(seed, step));
            EmaUpdate.Run(wide, [p], decay);
            var toZero = BFloat16.FromBits((ushort)(BitConverter.SingleToUInt32Bits(wide[0]) >> 16));
            return average[0].Bits == toZero.Bits || (average[0].Bits == toZero.Bits + 1 && toZero != wide[0]);
        });

    [Fact]
    public void Averages_in_bfloat16_need_a_rounding_and_nearest_needs_force_above_its_limit()
    {
        var average = new[] { (BFloat16)1f };
        var wide = new float[1];
        using var group = EmaGroup.Pin<float, BFloat16>([new float[1]], [average]);

        Refused<ArgumentException>("rounding: average is bfloat16", () => EmaUpdate.Run(average, [2f], 0.5, default));
        Refused<ArgumentException>("rounding: averages[0] is bfloat16", () => group.Update(0.5));
        Refused<ArgumentOutOfRangeException>("stands still", () => EmaUpdate.Run(average, [2f], 0.991, EmaRounding.Nearest()));
        Refused<ArgumentOutOfRangeException>("decays[0]", () => group.Update([0.9999], EmaRounding.Nearest()));
        Assert.Equal(1f, average[0]);

        EmaUpdate.Run(average, [2f], 1, EmaRounding.Nearest()); // β = 1 rounds nothing
        EmaUpdate.Run(average, [2f], 0.9999, Forced);
        Assert.Equal(1f, average[0]);
        EmaUpdate.Run(average, [2f], 0.99, EmaRounding.Nearest());
        Assert.Equal(1.0078125f, average[0]);
        using var floats = EmaGroup.Pin<float>([new float[] { 3 }], [wide]);
        floats.Update([0], EmaRounding.Nearest()); // of no concern to float32
        Assert.Equal(3, wide[0]);
    }

    [Fact]
    public unsafe void Bad_arguments_are_refused_and_nothing_is_written()
    {
        var memory = new[] { (BFloat16)1f, (BFloat16)2f };
        var huge = TensorView.FromPointer((void*)4096, DType.BFloat16, [(8L << 32) + 1]);
        var hugeSource = TensorView.FromPointer((void*)(1L << 40), DType.BFloat16, [(8L << 32) + 1]);
        var one = TensorView.FromPointer((void*)8192, DType.BFloat16, [1]);
        var two = TensorView.FromPointer((void*)16384, DType.Float32, [1]);

        Refused<ArgumentException>("3 elements", () => EmaUpdate.Run(memory, new float[3], 0.5, Forced));
        Refused<ArgumentException>("source overlaps average", () => EmaUpdate.Run(memory, memory, 0.5, Forced));
        Refused<ArgumentOutOfRangeException>("decay", () => EmaUpdate.Run(memory, memory, double.NaN, Forced));
        Refused<BackendUnavailableException>("Cuda", () => EmaUpdate.Run(memory, new float[2], 0.5, Forced, AuxBackend.Cuda));
        Refused<ArgumentOutOfRangeException>("step", () => EmaRounding.Stochastic(1, -1));
        Refused<ArgumentOutOfRangeException>("firstTensor", () => EmaRounding.Stochastic(1, 0, -1));
        Refused<ArgumentException>("averages[0][0]: bfloat16[34359738369] on cpu; bfloat16 averages have at most 2^35 elements",
            () => EmaGroup.FromViews([hugeSource], [huge]));
        Refused<ArgumentException>("averages[0][1]: float32[1] on cpu, but averages[0][0] is bfloat16; one list has one type",
            () => EmaGroup.FromViews([two, two], [one, two]));
        Assert.Equal([1f, 2f], memory.Select(value => (float)value));
    }

    [Fact]
    public void Updates_allocate_next_to_nothing()
    {
        using var group = EmaGroup.Pin<float, BFloat16>(
            [.. Enumerable.Range(0, 100).Select(_ => (ReadOnlyMemory<float>)new float[50])],
            [.. Enumerable.Range(0, 100).Select(_ => new BFloat16[50].AsMemory())]);
        group.Update([0.5], EmaRounding.Stochastic(1, 0));
        var before = GC.GetAllocatedBytesForCurrentThread();

        for (var i = 0; i < 1000; i++)
            group.Update([0.5], EmaRounding.Stochastic(1, i));

        Assert.InRange((GC.GetAllocatedBytesForCurrentThread() - before) / 1000, 0, 256);
    }

    private static void Refused<TException>(string message, Action action) where TException : Exception =>
        Assert.Contains(message, Assert.ThrowsAny<TException>(action).Message, StringComparison.Ordinal);

    private static float[] Floats(Random random, int length) => [.. Enumerable.Range(0, length).Select(_ => Value(random))];

    private static BFloat16[] Brains(Random random, int length) => [.. Enumerable.Range(0, length).Select(_ => (BFloat16)Value(random))];

    private static ReadOnlyMemory<float>[] ReadOnly(float[][] arrays) => [.. arrays.Select(array => (ReadOnlyMemory<float>)array)];

    private static Memory<BFloat16>[] Writable(BFloat16[][] arrays) => [.. arrays.Select(array => array.AsMemory())];

    private static ushort[] Bits(ReadOnlySpan<BFloat16> values)
    {
        var bits = new ushort[values.Length];
        for (var i = 0; i < bits.Length; i++)
            bits[i] = values[i].Bits;
        return bits;
    }
}
