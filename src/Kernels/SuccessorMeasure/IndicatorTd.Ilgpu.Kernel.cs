using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// IndicatorTd's device code for ILGPU: a thread an element for the gradient, and where they are wanted a thread a row for losses and a
/// thread a task for counts. No thread waits for another, so sums are in the order of their loops.
/// </summary>
internal static class IndicatorTdKernel
{
    /// <summary>Threads of a block; on a device with smaller ones, a warp.</summary>
    public const int Threads = 256;

    /// <summary>∂loss/∂Q.</summary>
    public static void Gradient(IndicatorTdViews views)
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at >= views.Gradient.Length)
            return;
        var row = at / views.Tasks;
        views.Gradient[at] = Error(views, row, (int)(at - row * views.Tasks)) * views.Scale;
    }

    /// <summary>Each row's mean of ½ δ².</summary>
    public static void RowLosses(IndicatorTdViews views)
    {
        var row = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (row >= views.Rows)
            return;
        var squares = 0.0;
        for (var task = 0; task < views.Tasks; task++)
        {
            var error = (double)Error(views, row, task);
            squares += error * error; // the product is exact, so it does not matter whether it is fused
        }

        views.RowLosses[row] = squares * views.RowShare;
    }

    /// <summary>The mean of the rows' losses; one thread.</summary>
    public static void Loss(IndicatorTdViews views)
    {
        if (Grid.IdxX != 0 || Group.IdxX != 0)
            return;
        var sum = 0.0;
        for (var row = 0; row < views.Rows; row++)
            sum += views.RowLosses[row];
        views.Loss[0] = sum / views.Rows;
    }

    /// <summary>What is summed down the columns.</summary>
    public static void Columns(IndicatorTdViews views)
    {
        var task = Grid.IdxX * Group.DimX + Group.IdxX;
        if (task >= views.Tasks)
            return;
        var magnitude = 0.0;
        var active = 0;
        var nan = 0;
        for (var row = 0L; row < views.Rows; row++)
        {
            var indicator = Indicator(views, row, task);
            active += indicator > 0 ? 1 : 0;
            nan += float.IsNaN(indicator) ? 1 : 0;
            var error = (double)Error(views, row, task);
            magnitude += error < 0 ? -error : error;
        }

        if (views.ActiveCounts.Length > 0)
            views.ActiveCounts[task] = nan > 0 ? -1 : active;
        if (views.MeanAbsoluteErrors.Length > 0)
            views.MeanAbsoluteErrors[task] = (float)(magnitude / views.Rows);
    }

    // The operations of IndicatorTd.Cpu.cs in their order, so all backends give the same bits.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Error(IndicatorTdViews views, long row, int task)
    {
        var at = row * views.Tasks + task;
        var target = Indicator(views, row, task) * views.Height; // exact: 0, the height, or NaN
        if (views.Done[row] == 0)
            target = KernelMath.MultiplyAdd(views.Discount, Value(views.IsNarrow, views.NextValues, views.NarrowNextValues, at), target);
        return Value(views.IsNarrow, views.Prediction, views.NarrowPrediction, at) - target;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Indicator(IndicatorTdViews views, long row, int task)
    {
        if (views.Kind == IndicatorKind.Bits)
            return (views.Bits[row * ((views.Tasks + 7) / 8) + task / 8] >> (task % 8)) & 1;
        var narrow = views.Kind == IndicatorKind.NarrowThreshold ? 1 : 0;
        var x = Value(narrow, views.Features, views.NarrowFeatures, row * views.Tasks + task) + views.Thresholds[task];
        return x > 0 ? 1 : float.IsNaN(x) ? x : 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Value(int isNarrow, ArrayView<float> wide, ArrayView<ushort> narrow, long at) =>
        isNarrow != 0 ? KernelMath.FromBFloat16(narrow[at]) : wide[at];
}

/// <summary>What the kernels work on; of the two views of a tensor that may be of 16 bits, and of outputs, some are empty.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct IndicatorTdViews
{
    public ArrayView<float> Prediction;
    public ArrayView<ushort> NarrowPrediction;
    public ArrayView<float> NextValues;
    public ArrayView<ushort> NarrowNextValues;
    public ArrayView<byte> Done;
    public ArrayView<float> Features;
    public ArrayView<ushort> NarrowFeatures;
    public ArrayView<byte> Bits;
    public ArrayView<float> Thresholds;
    public ArrayView<float> Gradient;
    public ArrayView<double> Loss;
    public ArrayView<double> RowLosses;
    public ArrayView<int> ActiveCounts;
    public ArrayView<float> MeanAbsoluteErrors;

    /// <summary>1 / (2 T).</summary>
    public double RowShare;

    public int Rows;
    public int Tasks;

    /// <summary>1 where predictions and next values are bfloat16, else 0.</summary>
    public int IsNarrow;

    public IndicatorKind Kind;
    public float Discount;
    public float Height;
    public float Scale;
}
