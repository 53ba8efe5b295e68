using System.Numerics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorCalibration
{
    // Columns that are gathered together: a cache line of float32 features is read once.
    private const int TileColumns = 16;

    /// <summary>The exact thresholds: gathers some columns at a time and selects in each.</summary>
    private static void SelectThresholds(IndicatorCalibrationWork work)
    {
        var tiles = (work.Tasks + TileColumns - 1) / TileColumns;
        var threads = Math.Min(ThreadTeam.Count(work.Rows * work.Tasks, MinimumElementsPerThread), tiles);
        var columns = new float[threads][]; // here, because a thread of the team must not throw
        for (var part = 0; part < threads; part++)
            columns[part] = new float[TileColumns * work.Rows];
        ThreadTeam.Run(threads, part =>
        {
            for (var tile = tiles * part / threads; tile < tiles * (part + 1) / threads; tile++)
                SelectTile(work, tile * TileColumns, columns[part]);
        });
    }

    private static unsafe void SelectTile(in IndicatorCalibrationWork work, int firstTask, float[] columns)
    {
        var tasks = Math.Min(TileColumns, work.Tasks - firstTask);
        var rows = (int)work.Rows;
        for (var n = 0; n < rows; n++)
        {
            var at = (long)n * work.Tasks + firstTask;
            for (var i = 0; i < tasks; i++)
                columns[i * rows + n] =
                    work.FeatureType == DType.Float32 ? ((float*)work.Features)[at + i] : ((BFloat16*)work.Features)[at + i];
        }

        for (var i = 0; i < tasks; i++)
        {
            var (threshold, active) = Select(columns.AsSpan(i * rows, rows), (int)work.Active);
            work.Thresholds[firstTask + i] = threshold;
            if (work.ActiveCounts != null)
                work.ActiveCounts[firstTask + i] = active;
        }
    }

    /// <summary>The threshold under which <paramref name="wanted"/> values, or fewer for ties, are active; and how many are.</summary>
    private static (float Threshold, int Active) Select(Span<float> values, int wanted)
    {
        foreach (var value in values)
        {
            if (float.IsNaN(value))
                return (float.NaN, -1);
        }

        var at = values.Length - 1 - wanted;
        SelectNth(values, at);
        var quantile = values[at];
        var active = 0;
        foreach (var value in values[(at + 1)..])
            active += value > quantile ? 1 : 0;
        return (0 - quantile, active); // 0 - 0 is +0, whatever the sign of the zero that came out
    }

    /// <summary>Hoare's selection: what ends at place n is what sorting would put there, nothing greater before it, nothing less behind.</summary>
    private static void SelectNth(Span<float> values, int n)
    {
        var (low, high) = (0, values.Length - 1);
        var rounds = 2 * BitOperations.Log2((uint)values.Length) + 2;
        while (low < high)
        {
            if (rounds-- == 0)
            {
                values[low..(high + 1)].Sort(); // an order that splits badly, round after round
                return;
            }

            var pivot = MedianOfThree(values[low], values[low + (high - low) / 2], values[high]);
            var (i, j) = (low, high);
            while (i <= j)
            {
                while (values[i] < pivot)
                    i++;
                while (values[j] > pivot)
                    j--;
                if (i > j)
                    break;
                (values[i], values[j]) = (values[j], values[i]);
                i++;
                j--;
            }

            if (n <= j)
                high = j;
            else if (n >= i)
                low = i;
            else
                return;
        }
    }

    private static float MedianOfThree(float a, float b, float c) => MathF.Max(MathF.Min(a, b), MathF.Min(MathF.Max(a, b), c));
}
