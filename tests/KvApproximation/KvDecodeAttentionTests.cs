using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Ema;
using CsCheck;

namespace AuxCore.Tests.KvApproximation;

public class KvDecodeAttentionTests
{
    private const float Canary = 12345.678f;

    private static readonly KvFormat[] Formats = [KvFormat.F32, KvFormat.F16, KvFormat.BF16, KvFormat.Q8_0, KvFormat.Q4_0];

    public static TheoryData<Runner, KvFormat> Matrix => new MatrixTheoryData<Runner, KvFormat>(BackendMatrix.All, Formats);

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    // Groups of 1 to 9 query heads, vectors that fill a head and ones that do not, lengths around a chunk's 512 and a tile's 64.
    private static IEnumerable<AttentionBatch> Batches(KvFormat keys, KvFormat values)
    {
        var group = Math.Max(keys.GroupSize(), values.GroupSize());
        yield return new(new(2, 4, 1, group == 1 ? 16 : 32, 1100), [1100, 513], keys, values);
        yield return new(new(3, 2, 2, group == 1 ? 40 : 96, 70), [65, 0, 1], keys, values);
        yield return new(new(1, 9, 1, group == 1 ? 72 : 64, 600), [511], keys, values);
        yield return new(new(2, 10, 2, 64, 8), [2, 7], keys, values);
        yield return new(new(1, 6, 2, 128, 67), [67], keys, values);
        if (group == 1)
        {
            yield return new(new(1, 1, 1, 1, 1), [1], keys, values);
            yield return new(new(2, 7, 1, 33, 66), [66, 3], keys, values);
            yield return new(new(1, 8, 4, 12, 520), [517], keys, values);
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Agrees_with_the_formula_in_double(Runner runner, KvFormat keys)
    {
        foreach (var batch in Formats.SelectMany(values => Batches(keys, values)))
        {
            var output = new float[batch.Query.Length + 2];
            (output[0], output[^1]) = (Canary, Canary);

            runner.Run(backend => batch.Run(output.AsSpan(1..^1), backend));

            Assert.Equal((Canary, Canary), (output[0], output[^1]));
            batch.RequireClose(output[1..^1], Tolerances.KvDecodeAttentionRelative);
        }
    }

    [Fact]
    public void Repeated_runs_and_any_number_of_threads_give_the_same_bits()
    {
        foreach (var format in Formats)
        {
            var batch = new AttentionBatch(new(2, 12, 3, 64, 3000), [3000, 1234], format, format);
            foreach (var width in (int[])[1, 4, 8, 16])
            {
                var expected = Result(new(AuxBackend.Cpu, width));
                foreach (var threads in (int[])[1, 2, 3, 7])
                    Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(Result(new(AuxBackend.Cpu, width, threads))));
            }

            float[] Result(Runner runner)
            {
                var output = new float[batch.Query.Length];
                runner.Run(backend => batch.Run(output, backend));
                return output;
            }
        }
    }

    [Theory]
    [InlineData(KvFormat.F16, 2e-3)]
    [InlineData(KvFormat.BF16, 2e-2)]
    [InlineData(KvFormat.Q8_0, 1e-2)]
    [InlineData(KvFormat.Q4_0, 0.15)]
    public void What_a_format_costs_is_small(KvFormat format, double allowed)
    {
        foreach (var d in (int[])[64, 128])
        {
            var shape = new KvAttentionShape(1, 8, 2, d, 1024);
            var (exact, stored) = (new AttentionBatch(shape, [1024], KvFormat.F32, KvFormat.F32),
                new AttentionBatch(shape, [1024], format, format));
            var output = new float[exact.Query.Length];
            stored.Run(output, AuxBackend.Cpu);
            exact.RequireClose(output, allowed);
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Positions_beyond_the_length_are_not_read(Runner runner, KvFormat format)
    {
        foreach (var length in (int[])[0, 1, 2, 5, 63, 66])
        {
            var batch = new AttentionBatch(new(1, 5, 1, 64, 80), [length], format, format);
            var (clean, output) = (new float[5 * 64], new float[5 * 64]);
            runner.Run(backend => batch.Run(clean, backend));
            batch.Keys.AsSpan((int)format.ByteCount(length * 64)).Fill(0xFF); // NaN in every format, or their scales
            batch.Values.AsSpan((int)format.ByteCount(length * 64)).Fill(0xFF);

            runner.Run(backend => batch.Run(output, backend));

            Assert.Equal(EmaUpdateTests.Bits(clean), EmaUpdateTests.Bits(output));
            Assert.DoesNotContain(float.NaN, output);
            if (length == 0)
                Assert.Equal(new float[5 * 64], output);
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void One_position_gives_its_value_exactly(Runner runner, KvFormat format)
    {
        var batch = new AttentionBatch(new(1, 5, 1, 64, 3), [1], format, format);
        var (output, value) = (new float[5 * 64], new float[64]);
        KvQuantise.Dequantise(batch.Values.AsSpan(0, (int)format.ByteCount(64)), format, value);
        runner.Run(backend => batch.Run(output, backend));
        for (var head = 0; head < 5; head++)
            Assert.Equal(value, output[(head * 64)..((head + 1) * 64)]);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_NaN_shows_in_the_heads_that_read_it_and_in_no_other(Runner runner)
    {
        foreach (var which in (string[])["query", "key", "value"])
        {
            foreach (var at in (int[])[0, 1, 63, 64, 511, 512, 599])
            {
                var batch = new AttentionBatch(new(1, 10, 2, 32, 600), [600], KvFormat.F32, KvFormat.F32);
                var output = new float[10 * 32];
                if (which == "query")
                    batch.Query[6 * 32 + at % 32] = float.NaN; // of the second group, which has the heads 5 … 9
                else
                    Floats(which == "key" ? batch.Keys : batch.Values)[(600 + at) * 32 + 5] = float.NaN;

                runner.Run(backend => batch.Run(output, backend));

                for (var i = 0; i < output.Length; i++)
                {
                    var expected = which switch
                    {
                        "query" => i / 32 == 6,
                        "key" => i / 32 >= 5,
                        _ => i / 32 >= 5 && i % 32 == 5,
                    };
                    Assert.Equal(expected, float.IsNaN(output[i]));
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Infinite_scores_are_defined(Runner runner)
    {
        // Keys of −∞ get no weight, unless all are; a key of +∞ gives NaN.
        var (query, output) = (new float[4 * 8], new float[4 * 8]);
        query.AsSpan().Fill(1);
        foreach (var (infinite, isNaN) in ((Range, bool)[])[(0..512, false), (3..700, false), (0..700, true)])
        {
            var (keys, values) = (new float[700 * 8], new float[700 * 8]);
            values.AsSpan().Fill(2.5f);
            for (var t = infinite.Start.Value; t < infinite.End.Value; t++)
                keys[t * 8] = float.NegativeInfinity;
            Run();
            Assert.All(output, value => Assert.Equal(isNaN ? float.NaN : 2.5f, value, 1e-5f));
            keys.AsSpan().Clear();
            keys[infinite.End.Value * 8 - 8] = float.PositiveInfinity;
            Run();
            Assert.All(output, value => Assert.True(float.IsNaN(value)));

            void Run() => runner.Run(backend => KvDecodeAttention.Run(
                query, MemoryMarshal.AsBytes(keys.AsSpan()), KvFormat.F32, MemoryMarshal.AsBytes(values.AsSpan()), KvFormat.F32, [700],
                new(1, 4, 1, 8, 700), output, backend: backend));
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Large_scores_do_not_overflow_and_the_greatest_wins(Runner runner)
    {
        var (keys, values) = (new float[1030 * 4], new float[1030 * 4]);
        for (var t = 0; t < 1030; t++)
            (keys[t * 4], values[t * 4]) = (t == 777 ? 3e4f : t % 100 * 100 - 3e4f, t);
        var output = new float[4];
        runner.Run(backend => KvDecodeAttention.Run(
            [100, 0, 0, 0], MemoryMarshal.AsBytes(keys.AsSpan()), KvFormat.F32, MemoryMarshal.AsBytes(values.AsSpan()), KvFormat.F32,
            [1030], new(1, 1, 1, 4, 1030), output, scale: 1000, backend: backend));
        Assert.Equal([777, 0, 0, 0], output);
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void The_scale_is_that_of_the_caller_or_one_over_the_root(Runner runner)
    {
        var batch = new AttentionBatch(new(1, 4, 1, 64, 33), [33], KvFormat.BF16, KvFormat.F32);
        var (first, second) = (new float[4 * 64], new float[4 * 64]);
        runner.Run(backend =>
        {
            batch.Run(first, backend);
            batch.Run(second, backend, 0.125);
            Assert.Equal(EmaUpdateTests.Bits(first), EmaUpdateTests.Bits(second));
            batch.Run(second, backend, 0);
        });
        var mean = Enumerable.Range(0, 33).Average(t => Floats(batch.Values)[t * 64]);
        Assert.Equal(mean, second[0], 1e-6);
    }

    [Fact]
    public void The_order_of_positions_does_not_matter() =>
        Gen.Select(Gen.Int[1, 1300], Gen.Int[1, 9], Gen.Int[0, 4], Gen.Int[0, 100_000]).Sample((length, heads, choice, seed) =>
        {
            var format = Formats[choice];
            var batch = new AttentionBatch(new(1, heads, 1, 32, length), [length], format, format, seed);
            var (first, second) = (new float[heads * 32], new float[heads * 32]);
            batch.Run(first, AuxBackend.Cpu);
            batch.Shuffle(seed);
            batch.Run(second, AuxBackend.Cpu);
            return first.Zip(second).All(pair => Math.Abs(pair.First - pair.Second) <= 2e-5);
        });

    [Fact]
    public void Equal_values_come_out_whatever_the_scores() =>
        Gen.Select(Gen.Int[1, 1300], Gen.Int[1, 9], Gen.Float[-100, 100]).Sample((length, heads, value) =>
        {
            var batch = new AttentionBatch(new(1, heads, 1, 32, length), [length], KvFormat.Q8_0, KvFormat.F32);
            var output = new float[heads * 32];
            Floats(batch.Values).Fill(value);
            batch.Run(output, AuxBackend.Cpu, scale: 3);
            return output.All(element => Math.Abs(element - value) <= 1e-5 * Math.Abs(value) + 1e-40); // denormals have few bits
        });

    [Fact]
    public unsafe void Views_give_the_bits_of_spans()
    {
        foreach (var (format, dtype) in ((KvFormat, DType)[])
            [(KvFormat.F32, DType.Float32), (KvFormat.F16, DType.Float16), (KvFormat.BF16, DType.BFloat16), (KvFormat.Q8_0, DType.UInt8),
                (KvFormat.Q4_0, DType.UInt8)])
        {
            var batch = new AttentionBatch(new(2, 6, 2, 32, 20), [20, 13], format, format);
            var (expected, output) = (new float[2 * 6 * 32], new float[2 * 6 * 32]);
            batch.Run(expected, AuxBackend.Cpu);
            fixed (float* q = batch.Query, o = output)
            fixed (byte* k = batch.Keys, v = batch.Values)
            {
                var row = dtype == DType.UInt8 ? format.ByteCount(32) : 32;
                KvDecodeAttention.Run(
                    TensorView.FromPointer(q, DType.Float32, [2, 6, 32]), TensorView.FromPointer(k, dtype, [2, 2, 20, row]), format,
                    TensorView.FromPointer(v, DType.UInt8, [2, 2, 20, format.ByteCount(32)]), format, batch.Lengths,
                    TensorView.FromPointer(o, DType.Float32, [2, 6, 32]));
            }

            Assert.Equal(EmaUpdateTests.Bits(expected), EmaUpdateTests.Bits(output));
        }
    }

    private static Span<float> Floats(byte[] bytes) => MemoryMarshal.Cast<byte, float>(bytes.AsSpan());
}
