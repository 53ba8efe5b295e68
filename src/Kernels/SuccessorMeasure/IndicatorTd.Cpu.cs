using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorTd
{
    // A thread gets at least this many elements: some 20 us of work, which waking it must be worth.
    private const long MinimumElementsPerThread = 64 * 1024;

    // Errors of so many tasks at a time lie in a buffer that stays in the first-level cache.
    private const int TileTasks = 1024;

    private static unsafe void RunCpu(in IndicatorTdWork work)
    {
        var loops = IndicatorTdLoops.For(CpuSimd.Width, work.ValueType, work.FeatureType);
        var chunks = new RowChunks(work.Rows);
        var rowLosses = work.RowLosses == null ? new double[work.Rows] : null;
        var statistics = work.WantsStatistics ? new TdSums(chunks, work.Tasks) : null;
        fixed (double* ownLosses = rowLosses)
        {
            var losses = ownLosses != null ? ownLosses : work.RowLosses;
            var threads = (int)Math.Min(ThreadTeam.Count(work.Rows * work.Tasks, MinimumElementsPerThread), chunks.Count);
            if (threads == 1)
                loops.Rows(work, chunks, 0, chunks.Count, losses, statistics);
            else
                RunThreads(work, loops, chunks, losses, statistics, threads);
            Finish(work, losses, statistics);
        }
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static unsafe void RunThreads(
        IndicatorTdWork work, IndicatorTdLoops loops, RowChunks chunks, double* losses, TdSums? statistics, int threads) =>
        ThreadTeam.Run(
            threads,
            part => loops.Rows(
                work, chunks, chunks.Count * part / threads, chunks.Count * (part + 1) / threads, losses, statistics));

    private static unsafe void Finish(in IndicatorTdWork work, double* losses, TdSums? statistics)
    {
        var loss = 0.0;
        for (var b = 0L; b < work.Rows; b++)
            loss += losses[b];
        if (work.Loss != null)
            *work.Loss = loss / work.Rows;
        for (var t = 0; statistics is not null && t < work.Tasks; t++)
        {
            if (work.ActiveCounts != null)
                work.ActiveCounts[t] = statistics.Active.Count(t);
            if (work.MeanAbsoluteErrors != null)
                work.MeanAbsoluteErrors[t] = (float)(statistics.Magnitude.Total(t) / work.Rows);
        }
    }

    /// <summary>What is summed down the columns.</summary>
    private sealed class TdSums(RowChunks chunks, int tasks)
    {
        public ColumnSums<float> Active { get; } = new(chunks, tasks);

        public ColumnSums<double> Magnitude { get; } = new(chunks, tasks);
    }

    /// <summary>The loop for one vector width, type of values and kind of indicators.</summary>
    private readonly unsafe struct IndicatorTdLoops(delegate*<in IndicatorTdWork, RowChunks, long, long, double*, TdSums?, void> rows)
    {
        private readonly delegate*<in IndicatorTdWork, RowChunks, long, long, double*, TdSums?, void> _rows = rows;

        public static IndicatorTdLoops For(SimdWidth width, DType values, DType features) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(values, features),
            SimdWidth.Bits256 => For<FloatVector8>(values, features),
            SimdWidth.Bits128 => For<FloatVector4>(values, features),
            _ => For<FloatVector1>(values, features),
        };

        /// <summary>The chunks from one up to another.</summary>
        public void Rows(
            in IndicatorTdWork work, RowChunks chunks, long fromChunk, long toChunk, double* losses, TdSums? statistics) =>
            _rows(work, chunks, fromChunk, toChunk, losses, statistics);

        private static IndicatorTdLoops For<TVector>(DType values, DType features) where TVector : struct, IFloatVector<TVector> =>
            values == DType.Float32 ? For<TVector, float>(features) : For<TVector, BFloat16>(features);

        private static IndicatorTdLoops For<TVector, TValue>(DType features)
            where TVector : struct, IFloatVector<TVector>
            where TValue : unmanaged =>
            features switch
            {
                DType.Float32 => new(&Chunks<TVector, TValue, ThresholdIndicator<float>>),
                DType.BFloat16 => new(&Chunks<TVector, TValue, ThresholdIndicator<BFloat16>>),
                _ => new(&Chunks<TVector, TValue, BitIndicator>),
            };
    }

    /// <summary>The indicators of one row.</summary>
    private unsafe interface IIndicator<TSelf> where TSelf : struct, IIndicator<TSelf>
    {
        static abstract TSelf Of(in IndicatorTdWork work, long row);

        /// <summary>Those of the tasks from <paramref name="task"/> on: height, 0 or NaN.</summary>
        TVector At<TVector>(int task, TVector height) where TVector : struct, IFloatVector<TVector>;
    }

    private readonly unsafe struct ThresholdIndicator<TFeature>(TFeature* features, float* thresholds)
        : IIndicator<ThresholdIndicator<TFeature>> where TFeature : unmanaged
    {
        private readonly TFeature* _features = features;
        private readonly float* _thresholds = thresholds;

        public static ThresholdIndicator<TFeature> Of(in IndicatorTdWork work, long row) =>
            new((TFeature*)work.Features + row * work.Tasks, work.Thresholds);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public TVector At<TVector>(int task, TVector height) where TVector : struct, IFloatVector<TVector> =>
            TVector.Step(TVector.Load(_features + task), TVector.Load(_thresholds + task), height);
    }

    private readonly unsafe struct BitIndicator(byte* bits) : IIndicator<BitIndicator>
    {
        private readonly byte* _bits = bits;

        public static BitIndicator Of(in IndicatorTdWork work, long row) => new((byte*)work.Features + row * work.BitBytes);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public TVector At<TVector>(int task, TVector height) where TVector : struct, IFloatVector<TVector> =>
            TVector.FromBits(_bits, task, height);
    }

    private static unsafe void Chunks<TVector, TValue, TIndicator>(
        in IndicatorTdWork work, RowChunks chunks, long fromChunk, long toChunk, double* losses, TdSums? statistics)
        where TVector : struct, IFloatVector<TVector>
        where TValue : unmanaged
        where TIndicator : struct, IIndicator<TIndicator>
    {
        var errors = stackalloc float[TileTasks];
        var lanes = stackalloc double[RowSums.Lanes];
        var share = 0.5 / work.Tasks;
        for (var chunk = fromChunk; chunk < toChunk; chunk++)
        {
            for (var place = chunks.Begin(chunk); place < chunks.Begin(chunk + 1); place++)
            {
                var row = work.RowAt(place);
                new Span<double>(lanes, RowSums.Lanes).Clear();
                for (var from = 0; from < work.Tasks; from += TileTasks)
                {
                    var count = Math.Min(TileTasks, work.Tasks - from);
                    Errors<TVector, TValue, TIndicator>(work, place, row, from, count, errors);
                    RowSums.AddSquares(errors, count, lanes);
                    if (statistics is not null)
                        AddStatistics<TVector, TIndicator>(work, row, from, count, errors, statistics, chunk);
                }

                losses[row] = RowSums.Total(lanes) * share;
            }
        }
    }

    /// <summary>Errors, and the gradient, of some tasks of a row; zeros behind them, up to a whole round of the sums' lanes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void Errors<TVector, TValue, TIndicator>(
        in IndicatorTdWork work, long place, long row, int from, int count, float* errors)
        where TVector : struct, IFloatVector<TVector>
        where TValue : unmanaged
        where TIndicator : struct, IIndicator<TIndicator>
    {
        var at = place * work.Tasks + from;
        var indicator = TIndicator.Of(work, row);
        var prediction = (TValue*)work.Prediction + at;
        var next = work.Done[row] == 0 ? (TValue*)work.NextValues + (row * work.Tasks + from) : null;
        var gradient = work.Gradient == null ? null : work.Gradient + at;
        var (discount, height, scale) = ((float)work.Discount, work.Height, (float)(1 / (work.Rows * (double)work.Tasks)));
        for (var t = count; t % RowSums.Lanes != 0; t++)
            errors[t] = 0;

        if (count < TVector.Count)
        {
            for (var t = 0; t < count; t++)
            {
                var single = Error<FloatVector1, TValue, TIndicator>(
                    indicator, from, prediction, next, t, FloatVector1.Broadcast(discount), FloatVector1.Broadcast(height));
                single.Store(errors + t);
                if (gradient != null)
                    Scaled(single, FloatVector1.Broadcast(scale)).Store(gradient + t);
            }

            return;
        }

        // The last vector may overlap the one before it. It is computed before anything is stored, so both have the same lanes.
        var (discounts, heights, scales) = (TVector.Broadcast(discount), TVector.Broadcast(height), TVector.Broadcast(scale));
        var last = count - TVector.Count;
        var end = Error<TVector, TValue, TIndicator>(indicator, from, prediction, next, last, discounts, heights);
        for (var t = 0; t < last; t += TVector.Count)
        {
            var error = Error<TVector, TValue, TIndicator>(indicator, from, prediction, next, t, discounts, heights);
            error.Store(errors + t);
            if (gradient != null)
                Scaled(error, scales).Store(gradient + t);
        }

        end.Store(errors + last);
        if (gradient != null)
            Scaled(end, scales).Store(gradient + last);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector Error<TVector, TValue, TIndicator>(
        TIndicator indicator, int from, TValue* prediction, TValue* next, int t, TVector discount, TVector height)
        where TVector : struct, IFloatVector<TVector>
        where TValue : unmanaged
        where TIndicator : struct, IIndicator<TIndicator>
    {
        var target = indicator.At(from + t, height);
        if (next != null)
            target = TVector.MultiplyAdd(discount, TVector.Load(next + t), target);
        return TVector.Load(prediction + t) - target;
    }

    // x · y + −0 is x · y with one rounding, the sign of zero included.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TVector Scaled<TVector>(TVector error, TVector scale) where TVector : struct, IFloatVector<TVector> =>
        TVector.MultiplyAdd(error, scale, TVector.Broadcast(-0f));

    private static unsafe void AddStatistics<TVector, TIndicator>(
        in IndicatorTdWork work, long row, int from, int count, float* errors, TdSums statistics, long chunk)
        where TVector : struct, IFloatVector<TVector>
        where TIndicator : struct, IIndicator<TIndicator>
    {
        fixed (double* magnitude = statistics.Magnitude.Of(chunk))
            RowSums.AddMagnitudes(errors, count, magnitude + from);
        fixed (float* active = statistics.Active.Of(chunk))
        {
            var indicator = TIndicator.Of(work, row);
            var t = from;
            for (; t <= from + count - TVector.Count; t += TVector.Count)
                Count<TVector, TIndicator>(indicator, active, t);
            for (; t < from + count; t++)
                Count<FloatVector1, TIndicator>(indicator, active, t);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Count<TVector, TIndicator>(TIndicator indicator, float* active, int task)
        where TVector : struct, IFloatVector<TVector>
        where TIndicator : struct, IIndicator<TIndicator>
    {
        var one = TVector.Broadcast(1);
        TVector.MultiplyAdd(indicator.At(task, one), one, TVector.Load(active + task)).Store(active + task);
    }
}
