using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorCalibration
{
    // Columns that are gone through together: a cache line of float32 features is read once.
    private const int TileColumns = 16;

    // Of so many rows, a sample gives a bound that the wanted value very likely exceeds, and only what exceeds it is kept.
    private const int LeastRowsToSample = 1024;
    private const int MostSamples = 512;

    /// <summary>The exact thresholds, some columns at a time, which threads share.</summary>
    private static void SelectThresholds(IndicatorCalibrationWork work)
    {
        var tiles = (work.Tasks + TileColumns - 1) / TileColumns;
        var threads = Math.Min(ThreadTeam.Count(work.Rows * work.Tasks, MinimumElementsPerThread), tiles);
        var columns = new float[threads][]; // here, because a thread of the team must not throw
        for (var part = 0; part < threads; part++)
            columns[part] = GC.AllocateUninitializedArray<float>(checked((int)(TileColumns * work.Rows)));
        ThreadTeam.Run(threads, part =>
        {
            for (var tile = tiles * part / threads; tile < tiles * (part + 1) / threads; tile++)
            {
                if (work.FeatureType == DType.Float32)
                    SelectTile<float>(work, tile * TileColumns, columns[part]);
                else
                    SelectTile<BFloat16>(work, tile * TileColumns, columns[part]);
            }
        });
    }

    private static unsafe void SelectTile<TFeature>(in IndicatorCalibrationWork work, int firstTask, float[] columns)
        where TFeature : unmanaged
    {
        var (tasks, rows, wanted) = (Math.Min(TileColumns, work.Tasks - firstTask), (int)work.Rows, (int)work.Active);
        var features = (TFeature*)work.Features + firstTask;
        var counts = stackalloc int[TileColumns];
        if (tasks == TileColumns && rows >= LeastRowsToSample)
            KeepLargest(features, work.Tasks, rows, wanted, columns, counts);
        else
            new Span<int>(counts, TileColumns).Clear();

        for (var i = 0; i < tasks; i++)
        {
            var column = columns.AsSpan(i * rows, rows);
            // Too few were kept where many states tie at the bound, or where the sample misled: then all of them are looked at.
            if (counts[i] > wanted)
                column = column[..counts[i]];
            else if (counts[i] >= 0)
                Gather(features + i, work.Tasks, column);
            var (threshold, active) = counts[i] < 0 ? (float.NaN, -1) : Select(column, wanted);
            work.Thresholds[firstTask + i] = threshold;
            if (work.ActiveCounts != null)
                work.ActiveCounts[firstTask + i] = active;
        }
    }

    private static unsafe void Gather<TFeature>(TFeature* features, int step, Span<float> column) where TFeature : unmanaged
    {
        for (var n = 0; n < column.Length; n++, features += step)
            column[n] = Widen(features);
    }

    /// <summary>One pass over all rows that keeps, of each column, what exceeds the column's bound.</summary>
    /// <param name="features">The first of the columns, in row 0.</param>
    /// <param name="step">Elements from one row to the next.</param>
    /// <param name="rows">How many rows.</param>
    /// <param name="wanted">How many values are to lie above the threshold.</param>
    /// <param name="columns">What was kept, so many rows a column.</param>
    /// <param name="counts">How many were kept of each column; −1 where there is a NaN.</param>
    private static unsafe void KeepLargest<TFeature>(
        TFeature* features, int step, int rows, int wanted, float[] columns, int* counts) where TFeature : unmanaged
    {
        var bounds = stackalloc float[TileColumns];
        for (var i = 0; i < TileColumns; i++)
            bounds[i] = Bound(features + i, step, rows, wanted);
        new Span<int>(counts, TileColumns).Clear();
        var (low, high) = (Vector256.Load(bounds), Vector256.Load(bounds + 8));
        var nan = Vector256<float>.Zero;
        var nanHigh = nan;
        var lanes = stackalloc float[TileColumns];
        fixed (float* kept = columns)
        {
            for (var n = 0; n < rows; n++, features += step)
            {
                var (x, xHigh) = (LoadEight(features), LoadEight(features + 8));
                nan |= ~Vector256.Equals(x, x);
                nanHigh |= ~Vector256.Equals(xHigh, xHigh);
                var mask = Vector256.GreaterThan(x, low).ExtractMostSignificantBits()
                    | Vector256.GreaterThan(xHigh, high).ExtractMostSignificantBits() << 8;
                if (mask == 0)
                    continue;
                x.Store(lanes);
                xHigh.Store(lanes + 8);
                for (; mask != 0; mask &= mask - 1)
                {
                    var i = BitOperations.TrailingZeroCount(mask);
                    kept[(long)i * rows + counts[i]++] = lanes[i];
                }
            }
        }

        var spoiled = nan.ExtractMostSignificantBits() | nanHigh.ExtractMostSignificantBits() << 8;
        for (; spoiled != 0; spoiled &= spoiled - 1)
            counts[BitOperations.TrailingZeroCount(spoiled)] = -1;
    }

    // A value of the sample that three standard deviations more of it exceed than would do on average.
    private static unsafe float Bound<TFeature>(TFeature* column, int step, int rows, int wanted) where TFeature : unmanaged
    {
        Span<float> sample = stackalloc float[MostSamples];
        for (var i = 0; i < sample.Length; i++)
            sample[i] = Widen(column + (long)((long)i * rows / sample.Length) * step);
        var share = (double)wanted / rows;
        var above = sample.Length * share + 3 * Math.Sqrt(sample.Length * share * (1 - share)) + 2;
        if (above >= sample.Length || sample.ContainsAnyNaN())
            return float.NegativeInfinity;
        var at = sample.Length - 1 - (int)above;
        SelectNth(sample, at);
        return sample[at];
    }

    private static bool ContainsAnyNaN(this Span<float> values)
    {
        foreach (var value in values)
        {
            if (float.IsNaN(value))
                return true;
        }

        return false;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe float Widen<TFeature>(TFeature* feature) where TFeature : unmanaged =>
        typeof(TFeature) == typeof(float) ? *(float*)feature : *(BFloat16*)feature;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector256<float> LoadEight<TFeature>(TFeature* features) where TFeature : unmanaged =>
        typeof(TFeature) == typeof(float)
            ? Vector256.Load((float*)features)
            : (Vector256.WidenLower(Vector128.Load((ushort*)features).ToVector256Unsafe()) << 16).AsSingle();

    /// <summary>The threshold under which <paramref name="wanted"/> values, or fewer for ties, are active; and how many are.</summary>
    private static (float Threshold, int Active) Select(Span<float> values, int wanted)
    {
        if (values.ContainsAnyNaN())
            return (float.NaN, -1);
        var at = values.Length - 1 - wanted;
        SelectNth(values, at);
        var quantile = values[at];
        if (float.IsInfinity(quantile))
            return (float.NaN, -1);
        var active = 0;
        foreach (var value in values[(at + 1)..])
            active += value > quantile ? 1 : 0;
        return (0 - quantile, active); // 0 - 0 is +0, whatever the sign of the zero that came out
    }

    /// <summary>
    /// Hoare's selection: what ends at place n is what sorting would put there, nothing greater before it, nothing less behind.
    /// </summary>
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
