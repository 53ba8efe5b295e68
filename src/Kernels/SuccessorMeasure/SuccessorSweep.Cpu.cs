using System.Runtime.Intrinsics;

namespace AuxCore.Kernels;

public static partial class SuccessorSweep
{
    private const long MinimumProductsPerThread = 256 * 1024;
    private const int LeastPanelColumns = 16;
    private const int MostPanelColumns = 128;
    private const int PanelElements = 64 * 1024; // two panels of 256 KB stay in the second-level cache

    /// <summary>
    /// Columns are on their own, so some of them at a time go through all sweeps, in a panel that stays in the cache. Threads share the
    /// panels.
    /// </summary>
    private static unsafe void RunCpu(in SuccessorSweepWork work)
    {
        var states = work.States;
        var width = Math.Clamp(PanelElements / states / LeastPanelColumns * LeastPanelColumns, LeastPanelColumns, MostPanelColumns);
        var panels = (states + width - 1) / width;
        var products = (long)work.Transitions.Columns.Length * states * work.Sweeps;
        var threads = Math.Min(ThreadTeam.Count(products, MinimumProductsPerThread), panels);
        var buffers = new float[threads][]; // here, because a thread of the team must not throw
        for (var i = 0; i < threads; i++)
            buffers[i] = GC.AllocateUninitializedArray<float>(checked(2 * states * width));
        RunPanels(work, buffers, width, panels);
    }

    private static unsafe void RunPanels(SuccessorSweepWork work, float[][] buffers, int width, int panels)
    {
        var sweep = SweepFor(CpuSimd.Width);
        ThreadTeam.Run(buffers.Length, part =>
        {
            for (var panel = part; panel < panels; panel += buffers.Length)
                RunPanel(work, panel * width, width, buffers[part], sweep);
        });
    }

    private static unsafe delegate*<in SuccessorSweepWork, int, int, float*, float*, void> SweepFor(SimdWidth width) => width switch
    {
        SimdWidth.Bits512 => &Sweep<FloatVector16>,
        SimdWidth.Bits256 => &Sweep<FloatVector8>,
        SimdWidth.Bits128 => &Sweep<FloatVector4>,
        _ => &Sweep<FloatVector1>,
    };

    private static unsafe void RunPanel(
        in SuccessorSweepWork work, int first, int width, float[] buffer, delegate*<in SuccessorSweepWork, int, int, float*, float*,
        void> sweep)
    {
        var (states, columns) = (work.States, Math.Min(width, work.States - first));
        fixed (float* memory = buffer)
        {
            float* now = memory, other = memory + (long)states * width;
            for (var s = 0; s < states; s++)
            {
                var row = new Span<float>(now + (long)s * width, width);
                new ReadOnlySpan<float>(work.Measure + (long)s * states + first, columns).CopyTo(row);
                row[columns..].Clear();
            }

            for (var i = 0; i < work.Sweeps; i++)
            {
                if (work.Order == SweepOrder.Jacobi)
                {
                    sweep(work, first, width, now, other);
                    var before = now;
                    now = other;
                    other = before;
                    continue;
                }

                if (i == work.Sweeps - 1)
                    new ReadOnlySpan<float>(now, states * width).CopyTo(new(other, states * width));
                sweep(work, first, width, now, now);
            }

            for (var s = 0; s < states; s++)
                new ReadOnlySpan<float>(now + (long)s * width, columns).CopyTo(new(work.Measure + (long)s * states + first, columns));
            if (work.ColumnChanges != null)
                Changes(now, other, states, width, columns, work.ColumnChanges + first);
        }
    }

    private static unsafe void Sweep<TVector>(in SuccessorSweepWork work, int first, int width, float* read, float* write)
        where TVector : struct, IFloatVector<TVector>
    {
        ReadOnlySpan<int> offsets = work.Transitions.RowOffsets, columns = work.Transitions.Columns;
        var values = work.Transitions.NarrowValues;
        var height = (float)SuccessorArguments.Height(work.Discount, work.Normalised);
        var (discount, zero, minusZero) = (TVector.Broadcast((float)work.Discount), TVector.Broadcast(0), TVector.Broadcast(-0f));
        for (var s = 0; s < work.States; s++)
        {
            var row = write + (long)s * width;
            var (from, to) = (offsets[s], offsets[s + 1]);
            for (var t = 0; t < width; t += TVector.Count)
            {
                var sum = zero;
                for (var k = from; k < to; k++)
                    sum = TVector.MultiplyAdd(TVector.Broadcast(values[k]), TVector.Load(read + (long)columns[k] * width + t), sum);
                TVector.MultiplyAdd(discount, sum, minusZero).Store(row + t); // + −0: a product with one rounding
            }

            if (work.Start == Start.Current)
                Count(row, s - first, width, height);
            for (var k = from; k < to && work.Start == Start.Next; k++)
                Count(row, columns[k] - first, width, height * values[k]);
        }
    }

    private static unsafe void Count(float* row, int column, int width, float value)
    {
        if (column >= 0 && column < width)
            row[column] += value;
    }

    /// <summary>The largest difference in each column.</summary>
    private static unsafe void Changes(float* now, float* before, int states, int width, int columns, float* changes)
    {
        var largest = stackalloc float[MostPanelColumns];
        new Span<float>(largest, width).Clear();
        for (var s = 0; s < states; s++)
        {
            for (var t = 0; t < width; t += Vector256<float>.Count)
            {
                var difference = Vector256.Abs(Vector256.Load(now + (long)s * width + t) - Vector256.Load(before + (long)s * width + t));
                Vector256.Max(Vector256.Load(largest + t), difference).Store(largest + t); // NaN goes through
            }
        }

        new ReadOnlySpan<float>(largest, columns).CopyTo(new(changes, columns));
    }
}
