using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class EmaUpdate
{
    // Below this many elements a thread, waking it is not worth the while: 64 k elements are some 0.75 MB of traffic.
    private const long MinimumElementsPerThread = 64 * 1024;

    /// <summary>One pass over all tensors, split over threads by elements (not by tensors: one matrix may be most of the model).</summary>
    private static void RunCpu(in EmaWork work, ReadOnlySpan<double> decays)
    {
        var steps = new EmaStep[work.AverageCount];
        for (var i = 0; i < steps.Length; i++)
            steps[i] = EmaStep.Of(decays[i]);
        var kernels = EmaKernels.For(CpuSimd.Width);

        var elements = work.ElementCount;
        var threads = ThreadTeam.Count(elements, MinimumElementsPerThread);
        if (threads == 1)
            RunRange(work, kernels, steps, 0, elements);
        else
            RunThreads(work, kernels, steps, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(EmaWork work, EmaKernels kernels, EmaStep[] steps, int threads)
    {
        var elements = work.ElementCount;
        ThreadTeam.Run(threads, part => RunRange(work, kernels, steps, Cut(elements, part, threads), Cut(elements, part + 1, threads)));
    }

    // Whole cache lines of float32, so that two threads do not write the same one where tensors are aligned.
    private static long Cut(long elements, int part, int parts) => part == parts ? elements : elements / parts * part & ~15L;

    private static unsafe void RunRange(in EmaWork work, in EmaKernels kernels, EmaStep[] steps, long from, long to)
    {
        if (from >= to)
            return;
        if (work.HasBFloat16Averages)
        {
            RunRangeInChunks(work, kernels, steps, from, to);
            return;
        }

        var together = steps.Length > 1 && Array.TrueForAll(steps, step => step.Rule == EmaRule.FromAverage);
        var averages = stackalloc float*[steps.Length];
        for (var tensor = work.TensorAt(from); tensor < work.TensorCount && work.Offset(tensor) < to; tensor++)
        {
            var offset = work.Offset(tensor);
            var begin = Math.Max(from, offset) - offset;
            var count = Math.Min(to, work.Offset(tensor + 1)) - offset - begin;
            var dtype = work.SourceType(tensor);
            var source = (byte*)work.Source(tensor) + begin * dtype.Size();
            for (var k = 0; k < steps.Length; k++)
                averages[k] = work.Average(tensor, k) + begin;

            if (together)
                kernels.Several(averages, source, dtype, count, steps);
            else
            {
                for (var k = 0; k < steps.Length; k++)
                    kernels.One(averages[k], source, dtype, count, steps[k]);
            }
        }
    }

    /// <summary>The loops for one vector width.</summary>
    internal readonly unsafe struct EmaKernels
    {
        private readonly delegate*<float*, void*, DType, long, EmaStep, void> _one;
        private readonly delegate*<float**, void*, DType, long, EmaStep[], void> _several;
        private readonly delegate*<BFloat16*, void*, DType, int, EmaStep, ushort*, void> _rounded;

        private EmaKernels(
            delegate*<float*, void*, DType, long, EmaStep, void> one, delegate*<float**, void*, DType, long, EmaStep[], void> several,
            delegate*<BFloat16*, void*, DType, int, EmaStep, ushort*, void> rounded)
        {
            _one = one;
            _several = several;
            _rounded = rounded;
        }

        public static EmaKernels For(SimdWidth width) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(),
            SimdWidth.Bits256 => For<FloatVector8>(),
            SimdWidth.Bits128 => For<FloatVector4>(),
            _ => For<FloatVector1>(),
        };

        /// <summary>One average of one source.</summary>
        public void One(float* average, void* source, DType dtype, long count, EmaStep step) => _one(average, source, dtype, count, step);

        /// <summary>
        /// Several averages of one source, which is read once. All follow <see cref="EmaRule.FromAverage"/>.
        /// </summary>
        public void Several(float** averages, void* source, DType dtype, long count, EmaStep[] steps) =>
            _several(averages, source, dtype, count, steps);

        /// <summary>
        /// One bfloat16 average; <paramref name="noise"/> has 16 random bits an element, or is null to round to the nearest.
        /// </summary>
        public void Rounded(BFloat16* average, void* source, DType dtype, int count, EmaStep step, ushort* noise) =>
            _rounded(average, source, dtype, count, step, noise);

        private static EmaKernels For<TVector>() where TVector : struct, IFloatVector<TVector> =>
            new(&One<TVector>, &Several<TVector>, &Rounded<TVector>);
    }

    private static unsafe void One<TVector>(float* average, void* source, DType dtype, long count, EmaStep step)
        where TVector : struct, IFloatVector<TVector>
    {
        switch (step.Rule)
        {
            case EmaRule.FromAverage:
                One<TVector, FromAverage>(average, source, dtype, count, step.Coefficient);
                break;
            case EmaRule.FromSource:
                One<TVector, FromSource>(average, source, dtype, count, step.Coefficient);
                break;
            case EmaRule.Copy:
                One<TVector, Copy>(average, source, dtype, count, step.Coefficient);
                break;
        }
    }

    private static unsafe void One<TVector, TRule>(float* average, void* source, DType dtype, long count, float coefficient)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
    {
        switch (dtype)
        {
            case DType.Float32:
                Loop<TVector, TRule, float>(average, (float*)source, count, coefficient);
                break;
            case DType.BFloat16:
                Loop<TVector, TRule, BFloat16>(average, (BFloat16*)source, count, coefficient);
                break;
            default:
                Loop<TVector, TRule, Half>(average, (Half*)source, count, coefficient);
                break;
        }
    }

    private static unsafe void Several<TVector>(float** averages, void* source, DType dtype, long count, EmaStep[] steps)
        where TVector : struct, IFloatVector<TVector>
    {
        switch (dtype)
        {
            case DType.Float32:
                Loop<TVector, float>(averages, (float*)source, count, steps);
                break;
            case DType.BFloat16:
                Loop<TVector, BFloat16>(averages, (BFloat16*)source, count, steps);
                break;
            default:
                Loop<TVector, Half>(averages, (Half*)source, count, steps);
                break;
        }
    }

    internal interface IRule
    {
        static abstract TVector Apply<TVector>(TVector coefficient, TVector e, TVector p) where TVector : struct, IFloatVector<TVector>;
    }

    internal readonly struct FromAverage : IRule
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TVector Apply<TVector>(TVector weight, TVector e, TVector p) where TVector : struct, IFloatVector<TVector> =>
            TVector.WhereEqual(p, e, e, TVector.MultiplyAdd(weight, p - e, e));
    }

    internal readonly struct FromSource : IRule
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TVector Apply<TVector>(TVector minusDecay, TVector e, TVector p) where TVector : struct, IFloatVector<TVector> =>
            TVector.WhereEqual(p, e, e, TVector.MultiplyAdd(minusDecay, p - e, p));
    }

    internal readonly struct Copy : IRule
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TVector Apply<TVector>(TVector unused, TVector e, TVector p) where TVector : struct, IFloatVector<TVector> => p;
    }

    private static unsafe void Loop<TVector, TRule, TSource>(float* average, TSource* source, long count, float coefficient)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
        where TSource : unmanaged
    {
        if (count < TVector.Count)
        {
            for (var i = 0L; i < count; i++)
                Step<FloatVector1, TRule, TSource>(average + i, source + i, coefficient).Store(average + i);
            return;
        }

        // The last vector may overlap the one before it: both are computed from the old values, so the lanes that they share agree.
        var last = count - TVector.Count;
        var end = Step<TVector, TRule, TSource>(average + last, source + last, coefficient);
        var at = 0L;
        for (; at <= last - 3L * TVector.Count; at += 4L * TVector.Count)
        {
            var e = average + at;
            var p = source + at;
            Prefetch.Ahead(e, 4 * TVector.Count * sizeof(float));
            Prefetch.Ahead(p, 4 * TVector.Count * sizeof(TSource));
            var first = Step<TVector, TRule, TSource>(e, p, coefficient);
            var second = Step<TVector, TRule, TSource>(e + TVector.Count, p + TVector.Count, coefficient);
            var third = Step<TVector, TRule, TSource>(e + 2 * TVector.Count, p + 2 * TVector.Count, coefficient);
            var fourth = Step<TVector, TRule, TSource>(e + 3 * TVector.Count, p + 3 * TVector.Count, coefficient);
            first.Store(e);
            second.Store(e + TVector.Count);
            third.Store(e + 2 * TVector.Count);
            fourth.Store(e + 3 * TVector.Count);
        }

        for (; at < last; at += TVector.Count)
            Step<TVector, TRule, TSource>(average + at, source + at, coefficient).Store(average + at);
        end.Store(average + last);
    }

    /// <summary>Every average's stream advances together: each piece of the source is loaded once, and memory sees one pass.</summary>
    private static unsafe void Loop<TVector, TSource>(float** averages, TSource* source, long count, EmaStep[] steps)
        where TVector : struct, IFloatVector<TVector>
        where TSource : unmanaged
    {
        var at = 0L;
        for (; at <= count - 4L * TVector.Count; at += 4L * TVector.Count)
        {
            Prefetch.Ahead(source + at, 4 * TVector.Count * sizeof(TSource));
            var p0 = TVector.Load(source + at);
            var p1 = TVector.Load(source + at + TVector.Count);
            var p2 = TVector.Load(source + at + 2 * TVector.Count);
            var p3 = TVector.Load(source + at + 3 * TVector.Count);
            for (var k = 0; k < steps.Length; k++)
            {
                var e = averages[k] + at;
                var weight = TVector.Broadcast(steps[k].Coefficient);
                Prefetch.Ahead(e, 4 * TVector.Count * sizeof(float));
                FromAverage.Apply(weight, TVector.Load(e), p0).Store(e);
                FromAverage.Apply(weight, TVector.Load(e + TVector.Count), p1).Store(e + TVector.Count);
                FromAverage.Apply(weight, TVector.Load(e + 2 * TVector.Count), p2).Store(e + 2 * TVector.Count);
                FromAverage.Apply(weight, TVector.Load(e + 3 * TVector.Count), p3).Store(e + 3 * TVector.Count);
            }
        }

        for (var k = 0; k < steps.Length; k++)
            Loop<TVector, FromAverage, TSource>(averages[k] + at, source + at, count - at, steps[k].Coefficient);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector Step<TVector, TRule, TSource>(float* average, TSource* source, float coefficient)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
        where TSource : unmanaged =>
        TRule.Apply(TVector.Broadcast(coefficient), TVector.Load(average), TVector.Load(source));
}
