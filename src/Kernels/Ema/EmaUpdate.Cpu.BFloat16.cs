using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <content>The loops for averages in bfloat16.</content>
public static partial class EmaUpdate
{
    // Source, averages and random bits of a chunk stay in the first-level cache while one average after the other is updated.
    private const int ChunkElements = 1024;
    private const int ScratchWords = 2 * (ChunkElements / 8 + 2);

    private static unsafe void RunRangeInChunks(in EmaWork work, in EmaKernels kernels, EmaStep[] steps, long from, long to)
    {
        var scratch = stackalloc ulong[ScratchWords];
        for (var tensor = work.TensorAt(from); tensor < work.TensorCount && work.Offset(tensor) < to; tensor++)
        {
            var offset = work.Offset(tensor);
            var end = Math.Min(to, work.Offset(tensor + 1)) - offset;
            for (var at = Math.Max(from, offset) - offset; at < end; at += ChunkElements)
                RunChunk(work, kernels, steps, tensor, at, (int)Math.Min(ChunkElements, end - at), scratch);
        }
    }

    private static unsafe void RunChunk(
        in EmaWork work, in EmaKernels kernels, EmaStep[] steps, int tensor, long at, int count, ulong* scratch)
    {
        var dtype = work.SourceType(tensor);
        var source = (byte*)work.Source(tensor) + at * dtype.Size();
        for (var k = 0; k < steps.Length; k++)
        {
            if (steps[k].Rule == EmaRule.Keep)
                continue;
            if (work.AverageType(k) == DType.Float32)
            {
                kernels.One(work.Average(tensor, k) + at, source, dtype, count, steps[k]);
                continue;
            }

            var noise = work.Rounding.IsStochastic ? work.Rounding.Bits(scratch, k, tensor, at, count) : null;
            kernels.Rounded((BFloat16*)work.AverageAddress(tensor, k) + at, source, dtype, count, steps[k], noise);
        }
    }

    private static unsafe void Rounded<TVector>(
        BFloat16* average, void* source, DType dtype, int count, EmaStep step, ushort* noise)
        where TVector : struct, IFloatVector<TVector>
    {
        switch (step.Rule)
        {
            case EmaRule.FromAverage:
                Rounded<TVector, FromAverage>(average, source, dtype, count, step.Coefficient, noise);
                break;
            case EmaRule.FromSource:
                Rounded<TVector, FromSource>(average, source, dtype, count, step.Coefficient, noise);
                break;
            case EmaRule.Copy:
                Rounded<TVector, Copy>(average, source, dtype, count, step.Coefficient, noise);
                break;
        }
    }

    private static unsafe void Rounded<TVector, TRule>(
        BFloat16* average, void* source, DType dtype, int count, float coefficient, ushort* noise)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
    {
        switch (dtype)
        {
            case DType.Float32:
                RoundedLoop<TVector, TRule, float>(average, (float*)source, count, coefficient, noise);
                break;
            case DType.BFloat16:
                RoundedLoop<TVector, TRule, BFloat16>(average, (BFloat16*)source, count, coefficient, noise);
                break;
            default:
                RoundedLoop<TVector, TRule, Half>(average, (Half*)source, count, coefficient, noise);
                break;
        }
    }

    private static unsafe void RoundedLoop<TVector, TRule, TSource>(
        BFloat16* average, TSource* source, int count, float coefficient, ushort* noise)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
        where TSource : unmanaged
    {
        if (count < TVector.Count)
        {
            for (var i = 0; i < count; i++)
                Store(RoundedStep<FloatVector1, TRule, TSource>(average + i, source + i, coefficient), average, noise, i);
            return;
        }

        // The last vector may overlap the one before it: both are computed from the old values and the same bits, so the lanes agree.
        var last = count - TVector.Count;
        var end = RoundedStep<TVector, TRule, TSource>(average + last, source + last, coefficient);
        for (var at = 0; at < last; at += TVector.Count)
            Store(RoundedStep<TVector, TRule, TSource>(average + at, source + at, coefficient), average, noise, at);
        Store(end, average, noise, last);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe TVector RoundedStep<TVector, TRule, TSource>(BFloat16* average, TSource* source, float coefficient)
        where TVector : struct, IFloatVector<TVector>
        where TRule : struct, IRule
        where TSource : unmanaged =>
        TRule.Apply(TVector.Broadcast(coefficient), TVector.Load(average), TVector.Load(source));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Store<TVector>(TVector value, BFloat16* average, ushort* noise, int at)
        where TVector : struct, IFloatVector<TVector>
    {
        if (noise == null)
            value.StoreAs(average + at);
        else
            value.Store(average + at, noise + at);
    }
}
