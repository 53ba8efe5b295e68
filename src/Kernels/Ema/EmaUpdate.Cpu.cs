using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class EmaUpdate
{
    // Below this many elements a thread, waking it costs more than it saves (a wake-up and a join are some 10 µs).
    private const long MinimumElementsPerThread = 64 * 1024;

    // With several averages the source is walked in pieces that stay in the first-level cache, so that memory delivers it once: 8 KB of
    // float32 source beside 8 KB of average.
    private const long CachedPiece = 16384;

    /// <summary>One pass over all tensors, split over threads by elements (not by tensors: one matrix may be most of the model).</summary>
    private static void RunCpu(in EmaWork work, ReadOnlySpan<double> decays)
    {
        var kernels = new EmaKernel[work.AverageCount];
        for (var i = 0; i < kernels.Length; i++)
            kernels[i] = EmaKernel.For(EmaStep.Of(decays[i]), CpuSimd.Width);

        var elements = work.ElementCount;
        var threads = ThreadTeam.Count(elements, MinimumElementsPerThread);
        if (threads == 1)
        {
            RunRange(work, kernels, 0, elements);
            return;
        }

        var shared = work;
        ThreadTeam.Run(threads, part => RunRange(shared, kernels, Cut(elements, part, threads), Cut(elements, part + 1, threads)));
    }

    // Whole cache lines of float32, so that two threads do not write the same one where tensors are aligned.
    private static long Cut(long elements, int part, int parts) => part == parts ? elements : elements / parts * part & ~15L;

    private static unsafe void RunRange(in EmaWork work, EmaKernel[] kernels, long from, long to)
    {
        if (from >= to)
            return;
        for (var tensor = work.TensorAt(from); tensor < work.TensorCount && work.Offset(tensor) < to; tensor++)
        {
            var offset = work.Offset(tensor);
            var begin = Math.Max(from, offset) - offset;
            var end = Math.Min(to, work.Offset(tensor + 1)) - offset;
            var dtype = work.SourceType(tensor);
            var source = (byte*)work.Source(tensor);
            var size = dtype == DType.Float32 ? sizeof(float) : sizeof(ushort);
            var piece = kernels.Length == 1 ? end - begin : CachedPiece;
            for (; begin < end; begin += piece)
            {
                var count = Math.Min(piece, end - begin);
                for (var average = 0; average < kernels.Length; average++)
                    kernels[average].Run(work.Average(tensor, average) + begin, source + begin * size, dtype, count);
            }
        }
    }

    /// <summary>The loops for one decay and one vector width, one a source type.</summary>
    private readonly unsafe struct EmaKernel
    {
        private readonly float _coefficient;
        private readonly delegate*<float*, float*, long, float, void> _float32;
        private readonly delegate*<float*, BFloat16*, long, float, void> _bfloat16;
        private readonly delegate*<float*, Half*, long, float, void> _float16;

        private EmaKernel(
            float coefficient,
            delegate*<float*, float*, long, float, void> float32,
            delegate*<float*, BFloat16*, long, float, void> bfloat16,
            delegate*<float*, Half*, long, float, void> float16)
        {
            _coefficient = coefficient;
            _float32 = float32;
            _bfloat16 = bfloat16;
            _float16 = float16;
        }

        public static EmaKernel For(EmaStep step, SimdWidth width) => width switch
        {
            SimdWidth.Bits512 => For<FloatVector16>(step),
            SimdWidth.Bits256 => For<FloatVector8>(step),
            SimdWidth.Bits128 => For<FloatVector4>(step),
            _ => For<FloatVector1>(step),
        };

        public void Run(float* average, void* source, DType dtype, long count)
        {
            if (_float32 == null) // EmaRule.Keep
                return;
            switch (dtype)
            {
                case DType.Float32:
                    _float32(average, (float*)source, count, _coefficient);
                    break;
                case DType.BFloat16:
                    _bfloat16(average, (BFloat16*)source, count, _coefficient);
                    break;
                default:
                    _float16(average, (Half*)source, count, _coefficient);
                    break;
            }
        }

        private static EmaKernel For<TVector>(EmaStep step) where TVector : struct, IFloatVector<TVector> => step.Rule switch
        {
            EmaRule.FromAverage => For<TVector, FromAverage>(step),
            EmaRule.FromSource => For<TVector, FromSource>(step),
            EmaRule.Copy => For<TVector, Copy>(step),
            _ => default,
        };

        private static EmaKernel For<TVector, TRule>(EmaStep step)
            where TVector : struct, IFloatVector<TVector>
            where TRule : struct, IRule =>
            new(step.Coefficient, &Loop<TVector, TRule, float>, &Loop<TVector, TRule, BFloat16>, &Loop<TVector, TRule, Half>);
    }

    private interface IRule
    {
        static abstract TVector Apply<TVector>(TVector coefficient, TVector e, TVector p) where TVector : struct, IFloatVector<TVector>;
    }

    private readonly struct FromAverage : IRule
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TVector Apply<TVector>(TVector weight, TVector e, TVector p) where TVector : struct, IFloatVector<TVector> =>
            TVector.WhereEqual(p, e, e, TVector.MultiplyAdd(weight, p - e, e));
    }

    private readonly struct FromSource : IRule
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TVector Apply<TVector>(TVector minusDecay, TVector e, TVector p) where TVector : struct, IFloatVector<TVector> =>
            TVector.WhereEqual(p, e, e, TVector.MultiplyAdd(minusDecay, p - e, p));
    }

    private readonly struct Copy : IRule
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

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector Step<TVector, TRule, TSource>(float* average, TSource* source, float coefficient)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
        where TSource : unmanaged =>
        TRule.Apply(TVector.Broadcast(coefficient), TVector.Load(average), TVector.Load(source));
}
