using System.Runtime.InteropServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.KvApproximation;

public class KvQuantiseTests
{
    private const byte Canary = 0xA5;
    private const float Largest = 65504f * 127; // of q8_0, whose scale is a binary16

    public static TheoryData<Runner, KvFormat> Matrix =>
        new MatrixTheoryData<Runner, KvFormat>(BackendMatrix.All, Enum.GetValues<KvFormat>());

    public static TheoryData<Runner> Runners => [.. BackendMatrix.All];

    private static readonly int[] Lengths = [0, 32, 64, 96, 160, 1024, 4096 + 32, 3 * 65536 + 64];

    [Theory]
    [MemberData(nameof(Matrix))]
    public void The_bytes_are_those_of_the_formula(Runner runner, KvFormat format)
    {
        var lengths = format.GroupSize() == 1 ? [.. Lengths, 1, 2, 3, 7, 8, 15, 17, 31, 33, 63, 1001] : Lengths;
        foreach (var length in lengths)
        {
            var (x, scale) = (KvSamples.Elements(length, seed: length), format == KvFormat.Fp8E4M3 ? 0.37f : 1);
            var bytes = new byte[format.ByteCount(length) + 2];
            (bytes[0], bytes[^1]) = (Canary, Canary);

            runner.Run(backend => KvQuantise.Run(x, format, bytes.AsSpan(1..^1), scale, backend));

            Assert.Equal((Canary, Canary), (bytes[0], bytes[^1]));
            var group = format.GroupSize();
            for (var g = 0; g < length / group; g++)
            {
                var expected = KvSamples.Quantise(x.AsSpan(g * group, group), format, scale);
                Assert.Equal(expected, bytes.AsSpan(1 + g * expected.Length, expected.Length).ToArray());
            }
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public void Restored_numbers_are_those_of_the_formula(Runner runner, KvFormat format)
    {
        foreach (var length in (int[])[0, 32, 96, 4096 + 32, 3 * 65536 + 64])
        {
            var scale = format == KvFormat.Fp8E4M3 ? 0.37f : 1;
            var bytes = new byte[format.ByteCount(length)];
            new Random(length).NextBytes(bytes); // scales that are NaN, infinite, subnormal or negative among them
            var x = new float[length + 2];
            (x[0], x[^1]) = (Canary, Canary);

            runner.Run(backend => KvQuantise.Dequantise(bytes, format, x.AsSpan(1..^1), scale, backend));

            Assert.Equal((Canary, Canary), (x[0], x[^1]));
            var group = format.GroupSize();
            var groupBytes = (int)format.ByteCount(group);
            for (var i = 0; i < length; i++)
            {
                var expected = (float)KvSamples.Restore(bytes.AsSpan(i / group * groupBytes, groupBytes), format, scale, i % group);
                Assert.Equal(expected, x[i + 1]);
            }
        }
    }

    [Theory]
    [InlineData(KvFormat.F16)]
    [InlineData(KvFormat.BF16)]
    [InlineData(KvFormat.Fp8E4M3)]
    [InlineData(KvFormat.Q8_0)]
    [InlineData(KvFormat.Q4_0)]
    [InlineData(KvFormat.Kivi4)]
    public void A_million_groups_come_back_within_the_bound(KvFormat format)
    {
        const int Groups = 8192, Group = 32, Rounds = 123; // 1,007,616 groups
        var random = new Random(17);
        var most = format == KvFormat.F16 ? 0.5f : format == KvFormat.Fp8E4M3 ? 0.004f : 1;
        var (x, back, bytes) = (new float[Groups * Group], new float[Groups * Group], new byte[format.ByteCount(Groups * Group)]);
        for (var round = 0; round < Rounds; round++)
        {
            for (var g = 0; g < Groups; g++)
            {
                // Magnitudes from far below binary16's least number up to what the formats can hold.
                var scale = MathF.Pow(10, random.NextSingle() * 14 - 9) * most;
                var offset = format == KvFormat.Kivi4 ? (random.NextSingle() - 0.5f) * random.Next(3) * scale : 0; // a zero point
                for (var i = 0; i < Group; i++)
                    x[g * Group + i] = (random.NextSingle() * 2 - 1) * (format == KvFormat.Kivi4 ? Math.Min(scale, 20_000) : scale)
                        + Math.Clamp(offset, -40_000, 40_000);
            }

            KvQuantise.Run(x, format, bytes);
            KvQuantise.Dequantise(bytes, format, back);

            for (var g = 0; g < Groups; g++)
                KvSamples.RequireWithinBound(x.AsSpan(g * Group, Group), back.AsSpan(g * Group, Group), format);
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Degenerate_groups_come_back_finite_and_within_the_bound(Runner runner)
    {
        foreach (var format in (KvFormat[])[KvFormat.Q8_0, KvFormat.Q4_0, KvFormat.Kivi4])
        {
            // KIVI's zero point is a binary16 too.
            foreach (var group in KvSamples.DegenerateGroups().Where(group => format != KvFormat.Kivi4 || Math.Abs(group.Min()) <= 65504))
            {
                var (bytes, back) = (new byte[format.ByteCount(32)], new float[32]);
                runner.Run(backend =>
                {
                    KvQuantise.Run(group, format, bytes, backend: backend);
                    KvQuantise.Dequantise(bytes, format, back, backend: backend);
                });
                Assert.All(back, value => Assert.True(float.IsFinite(value)));
                KvSamples.RequireWithinBound(group, back, format);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void What_exceeds_the_scale_is_clipped_and_stays_finite(Runner runner)
    {
        float[] group = [.. Enumerable.Repeat(float.MaxValue, 16), .. Enumerable.Repeat(-float.MaxValue, 15), 1];
        var back = new float[32];
        runner.Run(backend =>
        {
            KvQuantise.Dequantise(Quantised(group, KvFormat.Q8_0, backend), KvFormat.Q8_0, back, backend: backend);
            Assert.Equal([.. Enumerable.Repeat(Largest, 16), .. Enumerable.Repeat(-Largest, 15), 0], back);
            KvQuantise.Dequantise(Quantised(group, KvFormat.Q4_0, backend), KvFormat.Q4_0, back, backend: backend);
            Assert.Equal([.. Enumerable.Repeat(65504f * 8, 16), .. Enumerable.Repeat(-65504f * 7, 15), 0], back);
            KvQuantise.Dequantise(Quantised(group, KvFormat.Kivi4, backend), KvFormat.Kivi4, back, backend: backend);
            Assert.Equal(65504f * 14, back[0]);
            Assert.Equal(-65504f, back[20]);
            KvQuantise.Dequantise(Quantised(group, KvFormat.Fp8E4M3, backend), KvFormat.Fp8E4M3, back, backend: backend);
            Assert.Equal([.. Enumerable.Repeat(448f, 16), .. Enumerable.Repeat(-448f, 15), 1], back);
        });
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void A_group_with_a_NaN_or_an_infinity_reads_as_NaN_and_its_neighbours_do_not(Runner runner)
    {
        foreach (var format in (KvFormat[])[KvFormat.Q8_0, KvFormat.Q4_0, KvFormat.Kivi4])
        {
            foreach (var bad in (float[])[float.NaN, -float.NaN, float.PositiveInfinity, float.NegativeInfinity])
            {
                for (var at = 32; at < 64; at++)
                {
                    var x = KvSamples.Elements(96, seed: at);
                    x.AsSpan().Fill(at);
                    x[at] = bad;
                    var back = new float[96];
                    runner.Run(backend => KvQuantise.Dequantise(Quantised(x, format, backend), format, back, backend: backend));
                    Assert.All(back[..32], value => Assert.True(float.IsFinite(value)));
                    Assert.All(back[32..64], value => Assert.True(float.IsNaN(value)));
                    Assert.All(back[64..], value => Assert.True(float.IsFinite(value)));
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void NaN_infinities_and_the_sign_of_zero_pass_through_floating_point(Runner runner)
    {
        float[] x = [float.NaN, float.PositiveInfinity, float.NegativeInfinity, -0f, 0, 1e-45f, -1e-45f];
        foreach (var format in (KvFormat[])[KvFormat.F32, KvFormat.F16, KvFormat.BF16])
        {
            var back = new float[x.Length];
            runner.Run(backend => KvQuantise.Dequantise(Quantised(x, format, backend), format, back, backend: backend));
            Assert.Equal([float.NaN, float.PositiveInfinity, float.NegativeInfinity], back[..3]);
            Assert.Equal([true, false, false, true], back[3..].Select(float.IsNegative));
        }

        var narrow = new byte[x.Length];
        runner.Run(backend => KvQuantise.Run(x, KvFormat.Fp8E4M3, narrow, backend: backend));
        Assert.Equal([0x7F, 0x7E, 0xFE, 0x80, 0x00, 0x00, 0x80], narrow.Select((value, i) => i == 0 ? value & 0x7F : value));
    }

    [Theory]
    [MemberData(nameof(Runners))]
    public void Every_E4M3_comes_back_and_every_bfloat16_becomes_the_nearest(Runner runner)
    {
        var all = Enumerable.Range(0, 256).Select(i => (byte)i).ToArray();
        var (numbers, again) = (new float[256], new byte[256]);
        var x = Enumerable.Range(0, 65536).Select(i => (float)BFloat16.FromBits((ushort)i)).ToArray();
        var narrow = new byte[x.Length];
        runner.Run(backend =>
        {
            KvQuantise.Dequantise(all, KvFormat.Fp8E4M3, numbers, backend: backend);
            KvQuantise.Run(numbers, KvFormat.Fp8E4M3, again, backend: backend);
            KvQuantise.Run(x, KvFormat.Fp8E4M3, narrow, backend: backend);
        });

        Assert.All(all.Where(i => (i & 0x7F) != 0x7F), i => Assert.Equal(i, again[i]));
        Assert.Equal((448f, 1 / 64f, 1 / 512f, 1f), (numbers[0x7E], numbers[0x08], numbers[0x01], numbers[0x38]));
        Assert.True(float.IsNaN(numbers[0x7F]) && float.IsNaN(numbers[0xFF]));
        var positive = numbers[..0x7F];
        Assert.Equal(positive.Order(), positive);
        for (var i = 0; i < 0x7F80; i++) // up to infinity
        {
            var (magnitude, code) = ((double)Math.Min(x[i], 448), narrow[i]);
            Assert.Equal(code | 0x80, narrow[i + 0x8000]);
            var error = Math.Abs(numbers[code] - magnitude);
            Assert.True(code == 0 || error < magnitude - numbers[code - 1] || (error == magnitude - numbers[code - 1] && code % 2 == 0));
            Assert.True(code == 0x7E || error < numbers[code + 1] - magnitude || (error == numbers[code + 1] - magnitude && code % 2 == 0));
        }
    }

    // By hand: 1 / 127 is 0x2010 in binary16, 1 / −8 is 0xB000, −4 / −8 is 0x3800.
    [Theory]
    [MemberData(nameof(Runners))]
    public void Groups_worked_out_by_hand(Runner runner) => runner.Run(backend =>
    {
        var x = new float[32];
        Assert.Equal([0x00, 0x00, .. new byte[32]], Quantised(x, KvFormat.Q8_0, backend));
        Assert.Equal([0x00, 0x80, .. Enumerable.Repeat((byte)0x88, 16)], Quantised(x, KvFormat.Q4_0, backend));
        (x[0], x[1], x[16], x[31]) = (1, -1, 0.5f, -0.25f);
        Assert.Equal(
            [0x08, 0x20, 127, 0x81, .. new byte[14], 64, .. new byte[14], unchecked((byte)-32)], Quantised(x, KvFormat.Q8_0, backend));
        Assert.Equal([0x00, 0xB0, 0x40, 0x8F, .. Enumerable.Repeat((byte)0x88, 13), 0xA8], Quantised(x, KvFormat.Q4_0, backend));
        (x[5], x[6]) = (-4, 4); // the first of the greatest decides the sign
        Assert.Equal((0x00, 0x38), (Quantised(x, KvFormat.Q4_0, backend)[0], Quantised(x, KvFormat.Q4_0, backend)[1]));
    });

    [Fact]
    public void Quantising_what_was_restored_changes_no_byte() =>
        Gen.Select(Gen.Float[-1, 1].Array[32], Gen.Float[-3, 6], Gen.Int[0, 5]).Sample((unit, exponent, choice) =>
        {
            var format = (KvFormat)choice;
            var scale = MathF.Pow(10, format is KvFormat.F16 or KvFormat.Fp8E4M3 ? exponent / 3 : exponent);
            var first = Quantised([.. unit.Select(value => value * scale)], format, AuxBackend.Cpu);
            var back = new float[32];
            KvQuantise.Dequantise(first, format, back);
            return first.AsSpan().SequenceEqual(Quantised(back, format, AuxBackend.Cpu));
        });

    [Fact]
    public unsafe void Views_give_the_bytes_of_spans()
    {
        var x = KvSamples.Elements(3 * 64, seed: 4);
        var (bytes, back) = (new byte[3 * 68], new float[3 * 64]);
        var expected = Quantised(x, KvFormat.Q8_0, AuxBackend.Cpu);
        fixed (float* elements = x, restored = back)
        fixed (byte* stored = bytes)
        {
            var view = TensorView.FromPointer(stored, DType.UInt8, [3, 68]);
            KvQuantise.Run(TensorView.FromPointer(elements, DType.Float32, [3, 64]), KvFormat.Q8_0, view);
            KvQuantise.Dequantise(view, KvFormat.Q8_0, TensorView.FromPointer(restored, DType.Float32, [3, 64]));
        }

        var again = new float[3 * 64];
        KvQuantise.Dequantise(expected, KvFormat.Q8_0, again);
        Assert.Equal(expected, bytes);
        Assert.Equal(MemoryMarshal.AsBytes(again.AsSpan()), MemoryMarshal.AsBytes(back.AsSpan()));
    }

    private static byte[] Quantised(float[] x, KvFormat format, AuxBackend backend)
    {
        var bytes = new byte[format.ByteCount(x.Length)];
        KvQuantise.Run(x, format, bytes, backend: backend);
        return bytes;
    }
}
