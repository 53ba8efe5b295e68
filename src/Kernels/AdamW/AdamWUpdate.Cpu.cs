using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class AdamWUpdate
{
    // Below this many elements a thread, waking it is not worth the while: 32 k elements are some 0.9 MB of traffic.
    private const long MinimumElementsPerThread = 32 * 1024;

    /// <summary>One pass over all tensors, split over threads by elements (not by tensors: one matrix may be most of the model).</summary>
    private static void RunCpu(in AdamWWork work, ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays)
    {
        var coefficients = new AdamWCoefficients[settings.Length];
        for (var i = 0; i < coefficients.Length; i++)
            coefficients[i] = AdamWCoefficients.Of(settings[i], gradientScale);
        var steps = new EmaStep[work.AverageCount];
        for (var k = 0; k < steps.Length; k++)
            steps[k] = EmaStep.Of(decays[k]);
        var pass = new AdamWPass(work, coefficients, steps, AdamWKernel.For(CpuSimd.Width), EmaUpdate.EmaKernels.For(CpuSimd.Width));

        var threads = ThreadTeam.Count(work.ElementCount, MinimumElementsPerThread);
        if (threads == 1)
            RunRange(pass, 0, work.ElementCount);
        else
            RunThreads(pass, threads);
    }

    // Apart from RunCpu, so that one thread pays for no closure.
    private static void RunThreads(AdamWPass pass, int threads)
    {
        var elements = pass.Work.ElementCount;
        ThreadTeam.Run(threads, part => RunRange(pass, Cut(elements, part, threads), Cut(elements, part + 1, threads)));
    }

    // Whole cache lines of float32, so that two threads do not write the same one where tensors are aligned.
    private static long Cut(long elements, int part, int parts) => part == parts ? elements : elements / parts * part & ~15L;

    private static unsafe void RunRange(in AdamWPass pass, long from, long to)
    {
        if (from >= to)
            return;
        var work = pass.Work;
        for (var tensor = work.TensorAt(from); tensor < work.TensorCount && work.Offset(tensor) < to; tensor++)
        {
            ref readonly var row = ref work.Row(tensor);
            if (row.Gradient == 0)
                continue;
            var offset = work.Offset(tensor);
            var begin = Math.Max(from, offset) - offset;
            var count = Math.Min(to, work.Offset(tensor + 1)) - offset - begin;
            RunTensor(pass, tensor, Shifted(row, begin), begin, count);
        }
    }

    /// <summary>The averages that move towards the parameter advance with it; the others, which are rare, follow one by one.</summary>
    private static unsafe void RunTensor(in AdamWPass pass, int tensor, in AdamWRow row, long begin, long count)
    {
        var together = default(AdamWAverages);
        for (var k = 0; k < pass.Steps.Length; k++)
        {
            if (pass.Steps[k].Rule == EmaRule.FromAverage && pass.Work.HasAverages(tensor))
                together.Add(pass.Work.Average(tensor, k) + begin, pass.Steps[k].Coefficient);
        }

        pass.Kernel.Run(row, count, pass.Coefficients[row.Settings], together);
        if (together.Count == pass.Steps.Length || !pass.Work.HasAverages(tensor))
            return;
        for (var k = 0; k < pass.Steps.Length; k++)
        {
            if (pass.Steps[k].Rule != EmaRule.FromAverage)
                pass.EmaKernels.One(pass.Work.Average(tensor, k) + begin, (void*)row.Parameter, row.ParameterType, count, pass.Steps[k]);
        }
    }

    private static AdamWRow Shifted(AdamWRow row, long elements)
    {
        var bytes = (nint)elements * sizeof(float);
        row.Parameter += (nint)elements * row.ParameterType.Size();
        row.Gradient += (nint)elements * row.GradientType.Size();
        row.Master += row.Master == 0 ? 0 : bytes;
        row.FirstMoment += bytes;
        row.SecondMoment += bytes;
        return row;
    }

    /// <summary>One call, as every thread sees it.</summary>
    private readonly record struct AdamWPass(
        AdamWWork Work, AdamWCoefficients[] Coefficients, EmaStep[] Steps, AdamWKernel Kernel, EmaUpdate.EmaKernels EmaKernels);

    /// <summary>Averages that advance with their parameter: e ← fma(w, p − e, e).</summary>
    private unsafe struct AdamWAverages
    {
        public int Count;
        private Four<nint> _addresses;
        private Four<float> _weights;

        public void Add(float* address, float weight)
        {
            _addresses[Count] = (nint)address;
            _weights[Count++] = weight;
        }

        public readonly float* Address(int average) => (float*)_addresses[average];

        public readonly float Weight(int average) => _weights[average];

        [InlineArray(MostAverages)]
        private struct Four<T>
        {
            private T _first;
        }
    }

    /// <summary>The loops for one vector width.</summary>
    private readonly unsafe struct AdamWKernel
    {
        private readonly delegate*<in AdamWRow, long, in AdamWCoefficients, in AdamWAverages, void> _run;

        private AdamWKernel(delegate*<in AdamWRow, long, in AdamWCoefficients, in AdamWAverages, void> run) => _run = run;

        public static AdamWKernel For(SimdWidth width) => width switch
        {
            SimdWidth.Bits512 => new(&RunVectors<FloatVector16>),
            SimdWidth.Bits256 => new(&RunVectors<FloatVector8>),
            SimdWidth.Bits128 => new(&RunVectors<FloatVector4>),
            _ => new(&RunVectors<FloatVector1>),
        };

        public void Run(in AdamWRow row, long count, in AdamWCoefficients coefficients, in AdamWAverages averages) =>
            _run(row, count, coefficients, averages);
    }

    private static void RunVectors<TVector>(in AdamWRow row, long count, in AdamWCoefficients coefficients, in AdamWAverages averages)
        where TVector : struct, IFloatVector<TVector>
    {
        switch (row.ParameterType)
        {
            case DType.Float32:
                RunVectors<TVector, float>(row, count, coefficients, averages);
                break;
            case DType.BFloat16:
                RunVectors<TVector, BFloat16>(row, count, coefficients, averages);
                break;
            default:
                RunVectors<TVector, Half>(row, count, coefficients, averages);
                break;
        }
    }

    private static void RunVectors<TVector, TParameter>(
        in AdamWRow row, long count, in AdamWCoefficients coefficients, in AdamWAverages averages)
        where TVector : struct, IFloatVector<TVector>
        where TParameter : unmanaged
    {
        switch (row.GradientType)
        {
            case DType.Float32:
                Loop<TVector, TParameter, float>(row, count, coefficients, averages);
                break;
            case DType.BFloat16:
                Loop<TVector, TParameter, BFloat16>(row, count, coefficients, averages);
                break;
            default:
                Loop<TVector, TParameter, Half>(row, count, coefficients, averages);
                break;
        }
    }

    private static unsafe void Loop<TVector, TParameter, TGradient>(
        in AdamWRow row, long count, in AdamWCoefficients coefficients, in AdamWAverages averages)
        where TVector : struct, IFloatVector<TVector>
        where TParameter : unmanaged
        where TGradient : unmanaged
    {
        var step = new Stepper<TVector, TParameter, TGradient>(row, coefficients);
        var at = 0L;
        for (; at <= count - 2L * TVector.Count; at += 2L * TVector.Count)
        {
            step.Prefetch(at);
            var first = step.Take(at);
            var second = step.Take(at + TVector.Count);
            for (var k = 0; k < averages.Count; k++)
            {
                var average = averages.Address(k) + at;
                var weight = TVector.Broadcast(averages.Weight(k));
                Kernels.Prefetch.Ahead(average, 2 * TVector.Count * sizeof(float));
                EmaUpdate.FromAverage.Apply(weight, TVector.Load(average), first).Store(average);
                EmaUpdate.FromAverage.Apply(weight, TVector.Load(average + TVector.Count), second).Store(average + TVector.Count);
            }
        }

        if (at <= count - TVector.Count)
        {
            var value = step.Take(at);
            for (var k = 0; k < averages.Count; k++)
            {
                var average = averages.Address(k) + at;
                EmaUpdate.FromAverage.Apply(TVector.Broadcast(averages.Weight(k)), TVector.Load(average), value).Store(average);
            }

            at += TVector.Count;
        }

        if (at < count)
            Rest<TParameter, TGradient>(row, at, count, coefficients, averages);
    }

    // What is too short for a vector.
    private static unsafe void Rest<TParameter, TGradient>(
        in AdamWRow row, long at, long count, in AdamWCoefficients coefficients, in AdamWAverages averages)
        where TParameter : unmanaged
        where TGradient : unmanaged
    {
        var step = new Stepper<FloatVector1, TParameter, TGradient>(row, coefficients);
        for (; at < count; at++)
        {
            var value = step.Take(at);
            for (var k = 0; k < averages.Count; k++)
            {
                var average = averages.Address(k) + at;
                EmaUpdate.FromAverage.Apply(new FloatVector1(averages.Weight(k)), new FloatVector1(*average), value).Store(average);
            }
        }
    }

    /// <summary>The step of one vector of elements; the operations and their order are those of the class's remarks.</summary>
    private readonly unsafe ref struct Stepper<TVector, TParameter, TGradient>
        where TVector : struct, IFloatVector<TVector>
        where TParameter : unmanaged
        where TGradient : unmanaged
    {
        private readonly TParameter* _parameter;
        private readonly float* _master;
        private readonly TGradient* _gradient;
        private readonly float* _firstMoment, _secondMoment;
        private readonly TVector _scale, _penalty, _weight1, _minusWeight1, _weight2, _minusWeight2, _epsilon, _minusStep, _minusShrinkage;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public Stepper(in AdamWRow row, in AdamWCoefficients coefficients)
        {
            _parameter = (TParameter*)row.Parameter;
            _master = (float*)row.Master;
            _gradient = (TGradient*)row.Gradient;
            _firstMoment = (float*)row.FirstMoment;
            _secondMoment = (float*)row.SecondMoment;
            _scale = TVector.Broadcast(coefficients.GradientScale);
            _penalty = TVector.Broadcast(coefficients.Penalty);
            _weight1 = TVector.Broadcast(coefficients.Weight1);
            _minusWeight1 = TVector.Broadcast(-coefficients.Weight1);
            _weight2 = TVector.Broadcast(coefficients.Weight2);
            _minusWeight2 = TVector.Broadcast(-coefficients.Weight2);
            _epsilon = TVector.Broadcast(coefficients.Epsilon);
            _minusStep = TVector.Broadcast(-coefficients.StepSize);
            _minusShrinkage = TVector.Broadcast(-coefficients.Shrinkage);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Prefetch(long at)
        {
            Kernels.Prefetch.Ahead(_parameter + at, 2 * TVector.Count * sizeof(TParameter));
            Kernels.Prefetch.Ahead(_gradient + at, 2 * TVector.Count * sizeof(TGradient));
            Kernels.Prefetch.Ahead(_firstMoment + at, 2 * TVector.Count * sizeof(float));
            Kernels.Prefetch.Ahead(_secondMoment + at, 2 * TVector.Count * sizeof(float));
            if (typeof(TParameter) != typeof(float))
                Kernels.Prefetch.Ahead(_master + at, 2 * TVector.Count * sizeof(float));
        }

        /// <summary>Returns the parameter as it is stored, which averages follow.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public TVector Take(long at)
        {
            var value = TVector.Load(_parameter + at);
            if (typeof(TParameter) != typeof(float))
            {
                var master = TVector.Load(_master + at);
                value = TVector.WhereEqual(TVector.RoundTo<TParameter>(master), value, master, value);
            }

            var gradient = TVector.MultiplyAdd(_penalty, value, _scale * TVector.Load(_gradient + at));
            var first = TVector.Load(_firstMoment + at);
            first = TVector.MultiplyAdd(_weight1, gradient, TVector.MultiplyAdd(_minusWeight1, first, first));
            first.Store(_firstMoment + at);
            var second = TVector.Load(_secondMoment + at);
            second = TVector.MultiplyAdd(_weight2 * gradient, gradient, TVector.MultiplyAdd(_minusWeight2, second, second));
            second.Store(_secondMoment + at);

            var direction = first / (TVector.Sqrt(second) + _epsilon);
            value = TVector.MultiplyAdd(_minusStep, direction, TVector.MultiplyAdd(_minusShrinkage, value, value));
            if (typeof(TParameter) != typeof(float))
                value.Store(_master + at);
            value.StoreAs(_parameter + at);
            return TVector.RoundTo<TParameter>(value);
        }
    }
}
