using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class EmaUpdate
{
    /// <summary>
    /// The formula of the class's remarks, element by element, in double, rounded once to float32, and from there to a bfloat16 average as
    /// its rounding says. The weight is the float32 that the kernels use.
    /// </summary>
    private static unsafe void RunReference(in EmaWork work, ReadOnlySpan<double> decays)
    {
        for (var tensor = 0; tensor < work.TensorCount; tensor++)
        {
            var count = work.Offset(tensor + 1) - work.Offset(tensor);
            for (var average = 0; average < work.AverageCount; average++)
            {
                var step = EmaStep.Of(decays[average]);
                var (address, dtype) = ((nint)work.AverageAddress(tensor, average), work.AverageType(average));
                for (var i = 0L; i < count; i++)
                {
                    var e = ReferenceFormat.Widen((void*)address, dtype, i);
                    var updated = Reference(e, ReferenceFormat.Widen(work.Source(tensor), work.SourceType(tensor), i), step);
                    if (dtype == DType.Float32)
                        ((float*)address)[i] = updated;
                    else if (step.Rule != EmaRule.Keep)
                        ((BFloat16*)address)[i] = work.Rounding.Round(updated, average, tensor, i);
                }
            }
        }
    }

    /// <summary>One float32 average.</summary>
    internal static unsafe void RunReference(float* average, void* source, DType sourceType, long count, double decay)
    {
        var step = EmaStep.Of(decay);
        for (var i = 0L; i < count; i++)
            average[i] = Reference(average[i], ReferenceFormat.Widen(source, sourceType, i), step);
    }

    internal static float Reference(float e, float p, EmaStep step)
    {
        if (step.Rule == EmaRule.Keep || (step.Rule != EmaRule.Copy && p == e))
            return e;
        if (step.Rule == EmaRule.Copy)
            return p;
        // In double, but for what the definition says of differences that float32 cannot hold.
        var difference = float.IsFinite(p - e) ? (double)p - e : p - e;
        return (float)((step.Rule == EmaRule.FromAverage ? e : p) + step.Coefficient * difference);
    }
}
