using AuxCore.Interop;
using AuxCore.Kernels;

namespace AuxCore.Tests.KvApproximation;

/// <summary>Elements of a KV cache, and the formats' formulas as the tests state them.</summary>
internal static class KvSamples
{
    /// <summary>Groups of very different magnitudes; degenerate ones, and some with NaN and infinity, among them.</summary>
    public static float[] Elements(int count, int seed)
    {
        var random = new Random(seed);
        var x = new float[count];
        for (var i = 0; i < count; i++)
            x[i] = (random.NextSingle() * 2 - 1) * MathF.Pow(10, (i / 32 * 7 % 23) - 12);
        var group = 1;
        foreach (var degenerate in DegenerateGroups().Append([.. Enumerable.Repeat(float.MaxValue, 31), -1]))
        {
            if (group * 32 + 32 <= count && count > 1024)
                degenerate.CopyTo(x, group * 32);
            group += 2;
        }

        if (count > 4096)
            (x[4096], x[4000], x[3500]) = (float.NaN, float.PositiveInfinity, -float.MaxValue);
        return x;
    }

    /// <summary>Constant, all but constant, zero, tiny and large groups, all of which have a scale in binary16.</summary>
    public static IEnumerable<float[]> DegenerateGroups()
    {
        float[] values =
        [
            0, -0f, 1, -1, 3.14159f, 1e-45f, -1e-45f, 1.17549435e-38f, 1e-40f, 3e-37f, 1e-20f, 5.9e-8f * 127, 2.9e-8f * 127, 6e-5f, 65504,
            500_000,
        ];
        foreach (var value in values)
        {
            yield return [.. Enumerable.Repeat(value, 32)];
            yield return [.. Enumerable.Range(0, 32).Select(i => i % 2 == 0 ? value : -value)];
            yield return [.. Enumerable.Repeat(0f, 31), value];
            yield return [.. Enumerable.Range(0, 32).Select(i => value * i / 31)];
            yield return [.. Enumerable.Range(0, 32).Select(i => i == 7 ? -value : value * 0.4999f)];
        }
    }

    /// <summary>One group. For floating-point formats, one element.</summary>
    public static byte[] Quantise(ReadOnlySpan<float> x, KvFormat format, float scale)
    {
        if (format == KvFormat.F32)
            return BitConverter.GetBytes(x[0]);
        if (format == KvFormat.F16)
            return BitConverter.GetBytes(float.IsNaN(x[0]) ? HalfBits.Narrow(x[0]) : BitConverter.HalfToUInt16Bits((Half)x[0]));
        if (format == KvFormat.BF16)
            return BitConverter.GetBytes(((BFloat16)x[0]).Bits);
        if (format == KvFormat.Fp8E4M3)
            return [E4M3(x[0] / scale)];

        var (extreme, isFinite) = (0f, true);
        foreach (var value in x)
        {
            isFinite &= float.IsFinite(value);
            extreme = MathF.Abs(extreme) < MathF.Abs(value) ? value : extreme;
        }

        if (format == KvFormat.Kivi4)
            return Kivi(x, isFinite);
        var d = format == KvFormat.Q8_0 ? MathF.Abs(extreme) / 127 : extreme / -8;
        if (MathF.Abs(d) >= 65520)
            d = 65504 * MathF.Sign(d);
        var inverse = !isFinite || d == 0 || float.IsInfinity(1 / d) ? 0 : 1 / d;
        var bytes = new List<byte>(BitConverter.GetBytes(isFinite ? BitConverter.HalfToUInt16Bits((Half)d) : (ushort)0x7E00));
        for (var i = 0; i < (format == KvFormat.Q8_0 ? 32 : 16); i++)
        {
            if (format == KvFormat.Q8_0)
                bytes.Add((byte)(sbyte)Math.Clamp(MathF.Round(Scaled(x[i]), MidpointRounding.AwayFromZero), -127, 127));
            else
                bytes.Add((byte)(Four(Scaled(x[i])) + 16 * Four(Scaled(x[16 + i]))));
        }

        return [.. bytes];

        float Scaled(float value) => inverse == 0 ? 0 : value * inverse;

        static int Four(float value) => (int)Math.Clamp(MathF.Floor(value + 8.5f), 0, 15);
    }

    /// <summary>One element of a group, in double.</summary>
    public static double Restore(ReadOnlySpan<byte> group, KvFormat format, float scale, int i) => format switch
    {
        KvFormat.F32 => BitConverter.ToSingle(group),
        KvFormat.F16 => (double)BitConverter.ToHalf(group),
        KvFormat.BF16 => BFloat16.FromBits(BitConverter.ToUInt16(group)),
        KvFormat.Fp8E4M3 => E4M3(group[0]) * scale,
        KvFormat.Q8_0 => (double)BitConverter.ToHalf(group) * (sbyte)group[2 + i],
        KvFormat.Kivi4 => (double)BitConverter.ToHalf(group) * (i < 16 ? group[4 + i] % 16 : group[i - 12] / 16)
            + (double)BitConverter.ToHalf(group[2..]),
        _ => (double)BitConverter.ToHalf(group) * ((i < 16 ? group[2 + i] % 16 : group[i - 14] / 16) - 8),
    };

    /// <summary>Asserts the bound of a format's round trip.</summary>
    public static void RequireWithinBound(ReadOnlySpan<float> x, ReadOnlySpan<float> back, KvFormat format)
    {
        var largest = 0.0;
        var extreme = 0f;
        foreach (var value in x)
            extreme = MathF.Abs(extreme) < MathF.Abs(value) ? value : extreme;
        largest = Math.Abs((double)extreme);
        for (var i = 0; i < x.Length; i++)
        {
            var magnitude = Math.Abs((double)x[i]);
            var bound = format switch
            {
                KvFormat.F16 => Math.Max(magnitude * Math.Pow(2, -11), Math.Pow(2, -25)),
                KvFormat.BF16 => Math.Max(magnitude * Math.Pow(2, -8), Math.Pow(2, -134)),
                KvFormat.Fp8E4M3 => Math.Max(magnitude * Math.Pow(2, -4), Math.Pow(2, -10)),
                KvFormat.Q8_0 => Group(largest / 127, largest / 254, 127),
                KvFormat.Kivi4 => Kivi(x),
                _ => Group(largest / 8, -x[i] / extreme > 7.5 / 8 ? largest / 8 : largest / 16, 8),
            };
            var error = Math.Abs((double)back[i] - x[i]);
            if (!(error <= bound))
                Assert.Fail($"{format}: {x[i]:R} came back as {back[i]:R}; {error} is above {bound}; the greatest is {extreme:R}");
        }

        // Half a step of what lies between the extremes, both of which were rounded outwards to binary16; then roundings in float32.
        double Kivi(ReadOnlySpan<float> group)
        {
            double least = group[0], greatest = group[0];
            foreach (var value in group)
                (least, greatest) = (Math.Min(least, value), Math.Max(greatest, value));
            var range = greatest - least + Math.Max(Math.Abs(least) * Math.Pow(2, -10), Math.Pow(2, -24));
            return Math.Max(range / 15 * (1 + Math.Pow(2, -10)), range / 15 + Math.Pow(2, -24)) / 2 + largest * Math.Pow(2, -21);
        }

        // Steps, then the rounding of the scale to binary16, then that of its inverse and of the products in float32.
        double Group(double d, double steps, int quants) =>
            steps + quants * Math.Max(d * Math.Pow(2, -11), Math.Pow(2, -25)) + largest * Math.Pow(2, -21);
    }

    private static byte[] Kivi(ReadOnlySpan<float> x, bool isFinite)
    {
        var (least, greatest) = (float.PositiveInfinity, float.NegativeInfinity);
        foreach (var value in x)
            (least, greatest) = (MathF.Min(least, value), MathF.Max(greatest, value));
        var m = Half.MinValue;
        var s = Half.MaxValue;
        if (isFinite)
        {
            // The order of the bits of positive numbers is theirs.
            for (var (low, high) = (-0x7BFF, 0x7BFF); low <= high;)
            {
                var middle = (low + high) >> 1;
                var half = middle < 0 ? -BitConverter.Int16BitsToHalf((short)-middle) : BitConverter.Int16BitsToHalf((short)middle);
                (m, low, high) = (float)half <= least ? (half, middle + 1, high) : (m, low, middle - 1);
            }

            var step = (greatest - (float)m) / 15;
            for (var (low, high) = (0, 0x7BFF); low <= high;)
            {
                var middle = (low + high) / 2;
                var half = BitConverter.Int16BitsToHalf((short)middle);
                (s, low, high) = (float)half >= step ? (half, low, middle - 1) : (s, middle + 1, high);
            }
        }

        var inverse = s == (Half)0 ? 0 : 1 / (float)s;
        var bytes = new List<byte>(BitConverter.GetBytes(isFinite ? s : Half.NaN));
        bytes.AddRange(BitConverter.GetBytes(isFinite ? m : (Half)0));
        for (var i = 0; i < 16; i++)
            bytes.Add((byte)(Four(x[i]) + 16 * Four(x[16 + i])));
        return [.. bytes];

        int Four(float value) => isFinite ? (int)Math.Clamp(MathF.Floor((value - (float)m) * inverse + 0.5f), 0, 15) : 0;
    }

    private static byte E4M3(float value)
    {
        if (float.IsNaN(value))
            return (byte)(float.IsNegative(value) ? 0xFF : 0x7F);
        var best = 0;
        for (var code = 1; code <= 0x7E; code++)
        {
            var (distance, least) = (Math.Abs(E4M3((byte)code) - MathF.Abs(value)), Math.Abs(E4M3((byte)best) - MathF.Abs(value)));
            if (distance < least || (distance == least && code % 2 == 0))
                best = code;
        }

        return (byte)((MathF.Abs(value) > 448 ? 0x7E : best) | (float.IsNegative(value) ? 0x80 : 0));
    }

    private static double E4M3(byte code)
    {
        var (exponent, mantissa) = ((code >> 3) % 16, code % 8);
        var magnitude = code % 128 == 127 ? double.NaN
            : exponent == 0 ? mantissa / 512.0
            : (1 + mantissa / 8.0) * Math.Pow(2, exponent - 7);
        return code < 128 ? magnitude : -magnitude;
    }
}
