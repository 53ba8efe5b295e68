using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

/// <summary>
/// Sums in float64 of float32 values, always over <see cref="Lanes"/> lanes, whatever the hardware's width: element i goes into lane
/// i mod <see cref="Lanes"/>, and the lanes are added as a fixed tree. So the result depends on the values and their order only.
/// </summary>
internal static unsafe class RowSums
{
    public const int Lanes = 16;

    /// <summary>Adds the squares, exact in double, to the lanes.</summary>
    /// <param name="values">The values, and zeros behind them up to a multiple of <see cref="Lanes"/>.</param>
    /// <param name="count">How many values.</param>
    /// <param name="lanes"><see cref="Lanes"/> sums.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void AddSquares(float* values, int count, double* lanes)
    {
        var (a, b) = (Vector256.Load(lanes), Vector256.Load(lanes + 4));
        var (c, d) = (Vector256.Load(lanes + 8), Vector256.Load(lanes + 12));
        for (var i = 0; i < count; i += Lanes)
        {
            var (x0, x1) = Vector256.Widen(Vector256.Load(values + i));
            var (x2, x3) = Vector256.Widen(Vector256.Load(values + i + 8));
            a += x0 * x0;
            b += x1 * x1;
            c += x2 * x2;
            d += x3 * x3;
        }

        a.Store(lanes);
        b.Store(lanes + 4);
        c.Store(lanes + 8);
        d.Store(lanes + 12);
    }

    /// <summary>The sum of the lanes.</summary>
    public static double Total(double* lanes)
    {
        var sums = Vector256.Load(lanes) + Vector256.Load(lanes + 8) + (Vector256.Load(lanes + 4) + Vector256.Load(lanes + 12));
        return sums[0] + sums[2] + (sums[1] + sums[3]);
    }

    /// <summary>sums[i] += |values[i]|.</summary>
    public static void AddMagnitudes(float* values, int count, double* sums)
    {
        var i = 0;
        for (; i <= count - 8; i += 8)
        {
            var (lower, upper) = Vector256.Widen(Vector256.Abs(Vector256.Load(values + i)));
            (Vector256.Load(sums + i) + lower).Store(sums + i);
            (Vector256.Load(sums + i + 4) + upper).Store(sums + i + 4);
        }

        for (; i < count; i++)
            sums[i] += MathF.Abs(values[i]);
    }
}
