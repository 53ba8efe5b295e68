using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class PvnHead
{
    /// <summary>
    /// The formulas of the class's summary, with products and sums in double, and the loss of <see cref="IndicatorTd"/>'s reference.
    /// </summary>
    private static unsafe void RunReference(in PvnHeadWork work)
    {
        var (features, tasks) = (work.Shape.Features, work.Shape.Tasks);
        var rows = (int)work.Rows;
        var (prediction, next, error) = (new float[rows * tasks], new float[rows * tasks], new float[rows * tasks]);
        for (var b = 0; b < rows; b++)
        {
            for (var t = 0; t < tasks; t++)
            {
                prediction[b * tasks + t] =
                    ReferenceDot(work.Features + (long)b * features, work.Head(t, work.Actions[b]), features);
                next[b * tasks + t] =
                    ReferenceDot(work.NextFeatures + (long)b * features, work.TargetMean + (long)t * features, features);
            }
        }

        fixed (float* q = prediction, qNext = next, g = error)
            IndicatorTd.RunChecked(work.Td.With(q, qNext, g, null), AuxBackend.Reference);

        if (work.FeatureGradient != null)
        {
            for (var b = 0; b < rows; b++)
            {
                for (var f = 0; f < features; f++)
                {
                    var sum = 0.0;
                    for (var t = 0; t < tasks; t++)
                        sum += (double)error[b * tasks + t] * work.Head(t, work.Actions[b])[f];
                    work.FeatureGradient[(long)b * features + f] = (float)sum;
                }
            }
        }

        if (work.WeightGradient != null)
            ReferenceWeightGradient(work, error);
    }

    private static unsafe void ReferenceWeightGradient(in PvnHeadWork work, float[] error)
    {
        var (features, tasks) = (work.Shape.Features, work.Shape.Tasks);
        for (var t = 0; t < tasks; t++)
        {
            for (var a = 0; a < work.Shape.Actions; a++)
            {
                for (var f = 0; f < features; f++)
                {
                    var sum = 0.0;
                    for (var b = 0; b < work.Rows; b++)
                    {
                        if (work.Actions[b] == a)
                            sum += (double)error[b * tasks + t] * work.Features[(long)b * features + f];
                    }

                    work.WeightGradient[((long)t * work.Shape.Actions + a) * features + f] = (float)sum;
                }
            }
        }
    }

    private static unsafe float ReferenceDot(float* left, float* right, int count)
    {
        var sum = 0.0;
        for (var i = 0; i < count; i++)
            sum += (double)left[i] * right[i];
        return (float)sum;
    }

    private static unsafe void MeanReference(float* weights, PvnShape shape, float* mean)
    {
        for (var t = 0; t < shape.Tasks; t++)
        {
            for (var f = 0; f < shape.Features; f++)
            {
                var sum = 0.0;
                for (var a = 0; a < shape.Actions; a++)
                    sum += weights[((long)t * shape.Actions + a) * shape.Features + f];
                mean[(long)t * shape.Features + f] = (float)(sum / shape.Actions);
            }
        }
    }
}
