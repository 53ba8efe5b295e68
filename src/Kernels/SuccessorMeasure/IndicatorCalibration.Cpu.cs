using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class IndicatorCalibration
{
    private const long MinimumElementsPerThread = 64 * 1024;

    // Terms of the pinball loss of so many tasks at a time lie in a buffer that stays in the first-level cache.
    private const int TileTasks = 1024;

    private static unsafe void RunCpu(in IndicatorCalibrationWork work)
    {
        if (work.Entry == CalibrationEntry.Quantile)
        {
            SelectThresholds(work);
            return;
        }

        var chunks = new RowChunks(work.Rows);
        var sums = new CalibrationSums(chunks, work);
        var loops = CalibrationLoops.For(CpuSimd.Width, work.FeatureType);
        var threads = (int)Math.Min(ThreadTeam.Count(work.Rows * work.Tasks, MinimumElementsPerThread), chunks.Count);
        if (threads == 1)
            loops.Rows(work, chunks, 0, chunks.Count, sums);
        else
            RunThreads(work, loops, chunks, sums, threads);
        Finish(work, sums);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(
        IndicatorCalibrationWork work, CalibrationLoops loops, RowChunks chunks, CalibrationSums sums, int threads) =>
        ThreadTeam.Run(
            threads, part => loops.Rows(work, chunks, chunks.Count * part / threads, chunks.Count * (part + 1) / threads, sums));

    private static unsafe void Finish(in IndicatorCalibrationWork work, CalibrationSums sums)
    {
        var loss = 0.0;
        for (var t = 0; t < work.Tasks; t++)
        {
            if (work.ActiveCounts != null)
                work.ActiveCounts[t] = sums.Active.Count(t);
            if (sums.Negative is null || sums.Loss is null)
                continue;
            var taskLoss = sums.Loss.Total(t) / work.Rows;
            loss += taskLoss;
            if (work.TaskLosses != null)
                work.TaskLosses[t] = taskLoss;
            var gradient = work.GradientOf(sums.Negative.Count(t));
            if (work.Gradient != null)
                work.Gradient[t] = gradient;
            if (work.LearningRate != 0)
                work.Thresholds[t] = (float)(work.Thresholds[t] - work.LearningRate * gradient);
        }

        if (work.Loss != null)
            *work.Loss = loss / work.Tasks;
    }

    /// <summary>What is summed down the columns; the pinball step's own sums are null for other entries.</summary>
    private sealed class CalibrationSums(RowChunks chunks, in IndicatorCalibrationWork work)
    {
        public ColumnSums<float> Active { get; } = new(chunks, work.Tasks);

        public ColumnSums<float>? Negative { get; } = work.Entry == CalibrationEntry.Pinball ? new(chunks, work.Tasks) : null;

        public ColumnSums<double>? Loss { get; } = work.Entry == CalibrationEntry.Pinball ? new(chunks, work.Tasks) : null;
    }

    /// <summary>The loop for one vector width and type of features.</summary>
    private readonly unsafe struct CalibrationLoops(
        delegate*<in IndicatorCalibrationWork, RowChunks, long, long, CalibrationSums, void> rows)
    {
        private readonly delegate*<in IndicatorCalibrationWork, RowChunks, long, long, CalibrationSums, void> _rows = rows;

        public static CalibrationLoops For(SimdWidth width, DType features) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(features),
            SimdWidth.Bits256 => For<FloatVector8>(features),
            SimdWidth.Bits128 => For<FloatVector4>(features),
            _ => For<FloatVector1>(features),
        };

        /// <summary>The chunks from one up to another.</summary>
        public void Rows(in IndicatorCalibrationWork work, RowChunks chunks, long fromChunk, long toChunk, CalibrationSums sums) =>
            _rows(work, chunks, fromChunk, toChunk, sums);

        private static CalibrationLoops For<TVector>(DType features) where TVector : struct, IFloatVector<TVector> =>
            features == DType.Float32 ? new(&Chunks<TVector, float>) : new(&Chunks<TVector, BFloat16>);
    }

    private static unsafe void Chunks<TVector, TFeature>(
        in IndicatorCalibrationWork work, RowChunks chunks, long fromChunk, long toChunk, CalibrationSums sums)
        where TVector : struct, IFloatVector<TVector>
        where TFeature : unmanaged
    {
        var terms = stackalloc float[TileTasks];
        for (var chunk = fromChunk; chunk < toChunk; chunk++)
        {
            fixed (float* active = sums.Active.Of(chunk), negative = sums.Negative is null ? default : sums.Negative.Of(chunk))
            fixed (double* loss = sums.Loss is null ? default : sums.Loss.Of(chunk))
            {
                for (var row = chunks.Begin(chunk); row < chunks.Begin(chunk + 1); row++)
                {
                    for (var from = 0; from < work.Tasks; from += TileTasks)
                    {
                        var count = Math.Min(TileTasks, work.Tasks - from);
                        Tasks<TVector, TFeature>(work, row, from, count, active, negative, terms);
                        if (loss != null)
                            RowSums.AddMagnitudes(terms, count, loss + from); // no term is negative
                    }
                }
            }
        }
    }

    /// <summary>Some tasks of a row: bits, counts, and the terms of the pinball loss.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // a call is over before tiers would have compiled it
    private static unsafe void Tasks<TVector, TFeature>(
        in IndicatorCalibrationWork work, long row, int from, int count, float* active, float* negative, float* terms)
        where TVector : struct, IFloatVector<TVector>
        where TFeature : unmanaged
    {
        var features = (TFeature*)work.Features + row * work.Tasks;
        var bits = work.Bits == null ? null : work.Bits + row * work.BitBytes;
        var thresholds = work.Thresholds;
        var (above, below) = ((float)(1 - work.Rate), (float)-work.Rate);
        var end = from + count;
        terms -= from;
        var (aboves, belows) = (TVector.Broadcast(above), TVector.Broadcast(below));
        var t = from;
        for (; t <= end - TVector.Count; t += TVector.Count)
            Lanes(features, thresholds, bits, active, negative, terms, t, aboves, belows);
        for (; t < end; t++)
            Lanes(
                features, thresholds, bits, active, negative, terms, t, FloatVector1.Broadcast(above), FloatVector1.Broadcast(below));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Lanes<TVector, TFeature>(
        TFeature* features, float* thresholds, byte* bits, float* active, float* negative, float* terms, int t,
        TVector above, TVector below)
        where TVector : struct, IFloatVector<TVector>
        where TFeature : unmanaged
    {
        var (zero, one) = (TVector.Broadcast(0), TVector.Broadcast(1));
        var x = TVector.MultiplyAdd(TVector.Load(features + t), one, TVector.Load(thresholds + t));
        if (bits != null)
            StoreBits(TVector.PositiveBits(x), TVector.Count, bits, t);
        TVector.MultiplyAdd(TVector.Step(x, zero, one), one, TVector.Load(active + t)).Store(active + t);
        if (negative == null)
            return;
        TVector.MultiplyAdd(TVector.Step(zero - x, zero, one), one, TVector.Load(negative + t)).Store(negative + t);
        TVector.Slopes(x, above, below).Store(terms + t);
    }

    // A byte's first lanes overwrite it, so nothing has to be cleared before.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void StoreBits(uint lanes, int count, byte* bits, int t)
    {
        var shift = t & 7;
        bits[t >> 3] = (byte)(shift == 0 ? lanes : bits[t >> 3] | lanes << shift);
        if (count > 8)
            bits[(t >> 3) + 1] = (byte)(lanes >> 8);
    }
}
