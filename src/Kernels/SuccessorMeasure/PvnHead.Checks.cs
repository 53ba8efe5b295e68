using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class PvnHead
{
    /// <summary>Finds what made a loss NaN or infinite: refuses inputs that are not finite, naming the tensor and the row.</summary>
    /// <param name="features">φ [B, F].</param>
    /// <param name="nextFeatures">φ̄ [B, F]; rows of terminal transitions are not looked at, as they do not count.</param>
    /// <param name="weights">W [T, A, F]; the message counts rows over tasks and actions.</param>
    /// <param name="targetMean">[T, F].</param>
    /// <param name="actions">[B].</param>
    /// <param name="done">[B].</param>
    /// <param name="indicators">The sets.</param>
    /// <param name="shape">F, T and A.</param>
    /// <exception cref="ArgumentException">An element is NaN or infinite, or lengths do not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action is out of range, or a size is below 1.</exception>
    public static unsafe void CheckFinite(
        ReadOnlySpan<float> features, ReadOnlySpan<float> nextFeatures, ReadOnlySpan<float> weights, ReadOnlySpan<float> targetMean,
        ReadOnlySpan<int> actions, ReadOnlySpan<bool> done, Indicators indicators, PvnShape shape)
    {
        RequireInputs(features, nextFeatures, weights, targetMean, actions, done, shape);
        indicators.Check(actions.Length, shape.Tasks);
        fixed (float* phi = features, next = nextFeatures, w = weights, mean = targetMean)
        fixed (bool* ended = done)
        {
            NonFinite.Refuse(phi, DType.Float32, actions.Length, shape.Features, nameof(features));
            NonFinite.Refuse(next, DType.Float32, actions.Length, shape.Features, nameof(nextFeatures), (byte*)ended);
            NonFinite.Refuse(w, DType.Float32, (long)shape.Tasks * shape.Actions, shape.Features, nameof(weights));
            NonFinite.Refuse(mean, DType.Float32, shape.Tasks, shape.Features, nameof(targetMean));
        }

        indicators.RefuseNonFinite(actions.Length, shape.Tasks);
    }

    private static void CheckShape(PvnShape shape)
    {
        TensorArguments.RequireAtLeastOne("F", shape.Features);
        TensorArguments.RequireAtLeastOne("T", shape.Tasks);
        TensorArguments.RequireAtLeastOne("A", shape.Actions);
    }

    private static void RequireInputs(
        ReadOnlySpan<float> features, ReadOnlySpan<float> nextFeatures, ReadOnlySpan<float> weights, ReadOnlySpan<float> targetMean,
        ReadOnlySpan<int> actions, ReadOnlySpan<bool> done, PvnShape shape)
    {
        CheckShape(shape);
        var rows = actions.Length;
        TensorArguments.RequireAtLeastOne("B", rows);
        TensorArguments.RequireLength(nameof(features), features.Length, rows, shape.Features, nameof(features));
        TensorArguments.RequireLength(nameof(nextFeatures), nextFeatures.Length, rows, shape.Features, nameof(nextFeatures));
        RequireWeights(weights.Length, nameof(weights), shape);
        TensorArguments.RequireLength(nameof(targetMean), targetMean.Length, shape.Tasks, shape.Features, nameof(targetMean));
        TensorArguments.RequireLength(nameof(done), done.Length, rows, nameof(done));
        TensorArguments.RequireIndices(actions, shape.Actions, nameof(actions));
    }

    private static void RequireWeights(long actual, string name, PvnShape shape)
    {
        if (actual != (Int128)shape.Tasks * shape.Actions * shape.Features)
            throw new ArgumentException(
                $"{name}: {actual} elements do not match shape [{shape.Tasks}, {shape.Actions}, {shape.Features}]", name);
    }
}
