using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class KvQuantise
{
    /// <summary>
    /// One element or group after the other. The formulas of q8_0 and q4_0 are in float32, as llama.cpp's are, whose bytes they must give;
    /// restored numbers are exact in double and rounded once.
    /// </summary>
    internal static unsafe void RunReference(in KvQuantiseWork work)
    {
        var group = work.Format.GroupSize();
        var bytes = work.Format.ByteCount(group);
        for (var g = 0L; g < work.Count / group; g++)
        {
            var elements = work.Elements + g * group;
            var stored = work.Bytes + g * bytes;
            if (work.IsRestore)
                Restore(stored, work.Format, work.Scale, elements);
            else
                Quantise(elements, work.Format, work.Scale, stored);
        }
    }

    private static unsafe void Quantise(float* x, KvFormat format, float scale, byte* y)
    {
        switch (format)
        {
            case KvFormat.F32:
                *(float*)y = *x;
                break;
            case KvFormat.F16:
                *(Half*)y = (Half)(*x);
                break;
            case KvFormat.BF16:
                *(BFloat16*)y = (BFloat16)(*x);
                break;
            case KvFormat.Fp8E4M3:
                *y = ToE4M3(*x / scale);
                break;
            case KvFormat.Q8_0:
                QuantiseQ8(x, y);
                break;
            case KvFormat.Q4_0:
                QuantiseQ4(x, y);
                break;
            default:
                QuantiseKivi(x, y);
                break;
        }
    }

    private static unsafe void Restore(byte* y, KvFormat format, float scale, float* x)
    {
        switch (format)
        {
            case KvFormat.F32:
                *x = *(float*)y;
                break;
            case KvFormat.F16:
                *x = (float)(*(Half*)y);
                break;
            case KvFormat.BF16:
                *x = *(BFloat16*)y;
                break;
            case KvFormat.Fp8E4M3:
                *x = (float)(FromE4M3(*y) * scale);
                break;
            case KvFormat.Q8_0:
                for (var i = 0; i < Q8Group.Elements; i++)
                    x[i] = (float)((double)(*(Half*)y) * ((sbyte*)y)[2 + i]);
                break;
            case KvFormat.Kivi4:
                for (var i = 0; i < KiviGroup.Elements; i++)
                    x[i] = (float)((double)((Half*)y)[0] * ((y[4 + i % 16] >> (i / 16 * 4)) & 15) + (double)((Half*)y)[1]);
                break;
            default:
                for (var i = 0; i < Q4Group.Elements; i++)
                    x[i] = (float)((double)(*(Half*)y) * (((y[2 + i % 16] >> (i / 16 * 4)) & 15) - Q4Group.Zero));
                break;
        }
    }

    private static unsafe void QuantiseQ8(float* x, byte* y)
    {
        var largest = 0f;
        var isFinite = true;
        for (var i = 0; i < Q8Group.Elements; i++)
        {
            largest = MathF.Max(largest, MathF.Abs(x[i]));
            isFinite &= float.IsFinite(x[i]);
        }

        var inverse = StoreScale(largest / Q8Group.Largest, isFinite, y);
        for (var i = 0; i < Q8Group.Elements; i++)
        {
            var q = isFinite ? MathF.Round(x[i] * inverse, MidpointRounding.AwayFromZero) : 0;
            ((sbyte*)y)[2 + i] = (sbyte)Math.Clamp(q, -Q8Group.Largest, Q8Group.Largest);
        }
    }

    private static unsafe void QuantiseQ4(float* x, byte* y)
    {
        var largest = 0f;
        var isFinite = true;
        for (var i = 0; i < Q4Group.Elements; i++)
        {
            if (MathF.Abs(x[i]) > MathF.Abs(largest))
                largest = x[i];
            isFinite &= float.IsFinite(x[i]);
        }

        var inverse = StoreScale(largest / -Q4Group.Zero, isFinite, y);
        for (var i = 0; i < Q4Group.Elements / 2; i++)
            y[2 + i] = (byte)(Of(x[i]) | (Of(x[16 + i]) << 4));

        int Of(float element) =>
            isFinite ? (int)Math.Clamp(element * inverse + 8.5f, 0, Q4Group.Largest) : Q4Group.Zero;
    }

    private static unsafe void QuantiseKivi(float* x, byte* y)
    {
        var (least, greatest, isFinite) = (x[0], x[0], true);
        for (var i = 0; i < KiviGroup.Elements; i++)
        {
            (least, greatest) = (MathF.Min(least, x[i]), MathF.Max(greatest, x[i]));
            isFinite &= float.IsFinite(x[i]);
        }

        var m = DirectedHalf.AtMost(least);
        var s = DirectedHalf.AtLeast((greatest - (float)m) / KiviGroup.Largest);
        ((Half*)y)[0] = isFinite ? s : Half.NaN;
        ((Half*)y)[1] = isFinite ? m : (Half)0;
        var inverse = s == (Half)0 ? 0 : 1 / (float)s;
        for (var i = 0; i < KiviGroup.Elements / 2; i++)
            y[4 + i] = (byte)(Of(x[i]) | (Of(x[16 + i]) << 4));

        int Of(float element) =>
            isFinite ? (int)Math.Clamp((element - (float)m) * inverse + 0.5f, 0, KiviGroup.Largest) : 0;
    }

    /// <summary>Stores a group's scale, and gives what elements are multiplied with.</summary>
    private static unsafe float StoreScale(float d, bool isFinite, byte* y)
    {
        if (!isFinite)
        {
            *(ushort*)y = (ushort)HalfBits.QuietNaN;
            return 0;
        }

        if (Half.IsInfinity((Half)d))
            d = MathF.CopySign((float)Half.MaxValue, d);
        *(Half*)y = (Half)d;
        return d == 0 || float.IsInfinity(1 / d) ? 0 : 1 / d;
    }

    /// <summary>The nearest of E4M3's numbers: steps of 2⁻³ of each binade, of 2⁻⁹ below 2⁻⁶, up to 448.</summary>
    private static byte ToE4M3(double x)
    {
        var sign = double.IsNegative(x) ? 0x80 : 0;
        if (double.IsNaN(x))
            return (byte)(sign | 0x7F);
        var magnitude = Math.Min(Math.Abs(x), 448);
        var exponent = magnitude == 0 ? -6 : Math.Max(Math.ILogB(magnitude), -6);
        var steps = (int)Math.Round(Math.ScaleB(magnitude, 3 - exponent), MidpointRounding.ToEven); // 16 is the next binade's 8
        return (byte)(sign | Math.Min(steps + ((exponent + 6) << 3), 0x7E));
    }

    private static double FromE4M3(byte bits)
    {
        var (exponent, mantissa) = ((bits >> 3) & 15, bits & 7);
        if ((bits & 0x7F) == 0x7F)
            return double.NaN;
        var magnitude = exponent == 0 ? Math.ScaleB(mantissa, -9) : Math.ScaleB(8 + mantissa, exponent - 10);
        return bits >= 0x80 ? -magnitude : magnitude;
    }
}
