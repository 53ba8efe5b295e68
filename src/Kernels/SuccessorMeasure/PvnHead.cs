using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>The sizes of a proto-value network's heads.</summary>
/// <param name="Features">F: the encoder's outputs.</param>
/// <param name="Tasks">T: sets of states.</param>
/// <param name="Actions">A.</param>
public readonly record struct PvnShape(int Features, int Tasks, int Actions);

/// <summary>
/// The heads of a proto-value network (Farebrother et al. 2023, arXiv 2304.12567; google-research, <c>pvn/offline.py</c>): T linear maps
/// from F features to A action values, trained by the loss of <see cref="IndicatorTd"/>. Loss and gradients of features and weights:
/// Q[b, t] = φ[b] · W[t, a_b], Q̄[b, t] = φ̄[b] · mean over a of W̄[t, a].
/// </summary>
/// <remarks>
/// <para>The published expression multiplies each row with all heads of all actions and then selects, or averages. Both are linear, so
/// here the target weights are averaged first (<c>MeanOverActions</c>, once each time that they change), and each row meets the heads of
/// its own action only (<see cref="ActionGroups"/>): 18 times less work for 18 actions, and the same gradients. Heads have no biases; a
/// feature that is always 1 serves as one.</para>
/// <para>Two ways to use it. <c>Run</c> does everything, products included. Where a framework has faster products, let it make them and
/// call <c>RunGrouped</c> for what is between: indicators, targets, errors, loss, and ∂loss/∂Q.</para>
/// <para>Arithmetic: products in float32, each sum in an order that depends on the vector width but not on threads; errors and losses as
/// in <see cref="IndicatorTd"/>. A NaN gives a NaN loss. Rows of weights of actions that nobody took get a gradient of 0. The methods of
/// this class are thread-safe.</para>
/// </remarks>
public static partial class PvnHead
{
    internal static readonly OpSupport Support = new(
        nameof(PvnHead),
        (AuxBackend.Cpu, null),
        (AuxBackend.Reference, null),
        (AuxBackend.Cuda, null),
        (AuxBackend.Ilgpu, "products belong to CUDA's kernel or to the framework: ILGPU has no kernel for it"));

    /// <summary>Whether this op runs on a backend on this machine.</summary>
    /// <param name="backend">Any backend but <see cref="AuxBackend.Auto"/>.</param>
    /// <param name="reason">Why not; empty where it runs.</param>
    public static bool IsSupported(AuxBackend backend, out string reason) => Support.IsSupported(backend, out reason);

    /// <summary>Averages weights over actions. Do so each time that the target network changes, and keep the result.</summary>
    /// <param name="weights">W̄ [T, A, F], row-major.</param>
    /// <param name="shape">F, T and A.</param>
    /// <param name="mean">[T, F]. Shares memory with nothing else.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <exception cref="ArgumentException">Lengths do not fit, or the memory overlaps. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe void MeanOverActions(
        ReadOnlySpan<float> weights, PvnShape shape, Span<float> mean, AuxBackend backend = AuxBackend.Auto)
    {
        CheckShape(shape);
        RequireWeights(weights.Length, nameof(weights), shape);
        TensorArguments.RequireLength(nameof(mean), mean.Length, shape.Tasks, shape.Features, nameof(mean));
        backend = Support.Resolve(backend, AuxDevice.Host);
        fixed (float* w = weights, m = mean)
            RunMean(w, shape, m, backend, AuxDevice.Host, 0);
    }

    /// <summary>One batch: loss, and the gradients of features and weights.</summary>
    /// <param name="features">φ [B, F] of the current states, row-major.</param>
    /// <param name="nextFeatures">φ̄ [B, F] of the next states, by the target encoder; rows of terminal transitions do not count.</param>
    /// <param name="weights">W [T, A, F].</param>
    /// <param name="targetMean">[T, F]: the target network's weights, averaged by <c>MeanOverActions</c>.</param>
    /// <param name="actions">[B]: the actions that were taken, within [0, A). Its length is B.</param>
    /// <param name="done">[B]: whether the transition is terminal.</param>
    /// <param name="indicators">The sets, for B states and T tasks.</param>
    /// <param name="shape">F, T and A.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state's indicators were given.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="gradients">The gradients that are wanted. They share memory with nothing else.</param>
    /// <param name="statistics">More outputs, each of them optional.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The loss; NaN if any of it is.</returns>
    /// <exception cref="ArgumentException">Lengths do not fit, or an output overlaps something. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// An action, the discount or <paramref name="start"/> is out of its range, or a size is below 1. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here.</exception>
    public static unsafe double Run(
        ReadOnlySpan<float> features, ReadOnlySpan<float> nextFeatures, ReadOnlySpan<float> weights, ReadOnlySpan<float> targetMean,
        ReadOnlySpan<int> actions, ReadOnlySpan<bool> done, Indicators indicators, PvnShape shape,
        double discount, Start start, bool normalised, PvnGradients gradients, TdStatistics statistics = default,
        AuxBackend backend = AuxBackend.Auto)
    {
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        RequireInputs(features, nextFeatures, weights, targetMean, actions, done, shape);
        indicators.Check(actions.Length, shape.Tasks);
        gradients.Check(actions.Length, shape);
        statistics.Check(actions.Length, shape.Tasks);
        backend = Support.Resolve(backend, AuxDevice.Host);

        double loss;
        fixed (float* phi = features, next = nextFeatures, w = weights, mean = targetMean)
        fixed (int* taken = actions)
        fixed (bool* ended = done)
        fixed (float* f = indicators.Features, thresholds = indicators.Thresholds)
        fixed (BFloat16* narrow = indicators.NarrowFeatures)
        fixed (byte* bits = indicators.Bits)
        fixed (float* byFeatures = gradients.Features, byWeights = gradients.Weights, errors = statistics.MeanAbsoluteErrors)
        fixed (double* rowLosses = statistics.RowLosses)
        fixed (int* counts = statistics.ActiveCounts)
        {
            var work = new PvnHeadWork
            {
                Shape = shape,
                Features = phi,
                NextFeatures = next,
                Weights = w,
                TargetMean = mean,
                Actions = taken,
                FeatureGradient = byFeatures,
                WeightGradient = byWeights,
                Td = new IndicatorTdWork
                {
                    Rows = actions.Length,
                    Tasks = shape.Tasks,
                    Discount = discount,
                    Normalised = normalised,
                    ValueType = DType.Float32,
                    Prediction = null,
                    NextValues = null,
                    Done = (byte*)ended,
                    FeatureType = indicators.ElementType,
                    Features = indicators.Pick(f, narrow, bits),
                    Thresholds = thresholds,
                    Gradient = null,
                    Loss = &loss,
                    RowLosses = rowLosses,
                    ActiveCounts = counts,
                    MeanAbsoluteErrors = errors,
                },
            };
            Run(work, backend, AuxDevice.Host, 0);
        }

        return loss;
    }

    /// <summary>
    /// What is between the products of a batch: indicators, targets, errors, loss and ∂loss/∂Q. It is <see cref="IndicatorTd"/> with
    /// predictions and gradient in grouped order, and everything else in the batch's.
    /// </summary>
    /// <param name="groups">The batch's rows by action.</param>
    /// <param name="prediction">
    /// Q [B, T]: row i is that of the batch's row groups.Order[i], by the head of the action that it took.
    /// </param>
    /// <param name="nextValues">Q̄ [B, T] in the batch's order: φ̄ times the mean of the target weights.</param>
    /// <param name="done">[B], in the batch's order: whether the transition is terminal.</param>
    /// <param name="indicators">The sets, in the batch's order.</param>
    /// <param name="tasks">T.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state's indicators were given.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="gradient">∂loss/∂Q [B, T], in grouped order. Shares memory with nothing else.</param>
    /// <param name="statistics">More outputs, each of them optional; row losses in the batch's order.</param>
    /// <param name="backend">Where to run; Auto takes the CPU for spans.</param>
    /// <returns>The loss; NaN if any of it is.</returns>
    /// <inheritdoc cref="IndicatorTd.Run(ReadOnlySpan{float}, ReadOnlySpan{float}, ReadOnlySpan{bool}, Indicators, int, double, Start,
    /// bool, Span{float}, TdStatistics, AuxBackend)" path="/exception"/>
    public static double RunGrouped(
        ActionGroups groups, ReadOnlySpan<float> prediction, ReadOnlySpan<float> nextValues, ReadOnlySpan<bool> done,
        Indicators indicators, int tasks, double discount, Start start, bool normalised, Span<float> gradient,
        TdStatistics statistics = default, AuxBackend backend = AuxBackend.Auto)
    {
        ArgumentNullException.ThrowIfNull(groups);
        TensorArguments.RequireLength(nameof(done), done.Length, groups.RowCount, nameof(done));
        var loss = IndicatorTd.RunSpans(
            prediction, nextValues, done, indicators, tasks, discount, start, normalised, gradient, statistics,
            Support.Resolve(backend, AuxDevice.Host), groups.Order);
        Support.Count(backend);
        return loss;
    }

    /// <summary>The op's one entry below the checks.</summary>
    private static void Run(in PvnHeadWork work, AuxBackend backend, AuxDevice device, nint stream)
    {
        work.RequireDisjoint();
        switch (backend)
        {
            case AuxBackend.Cpu:
                RunCpu(work);
                break;
            case AuxBackend.Reference:
                RunReference(work);
                break;
            case AuxBackend.Cuda:
                RunCuda(work, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(PvnHead), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }

    private static unsafe void RunMean(float* weights, PvnShape shape, float* mean, AuxBackend backend, AuxDevice device, nint stream)
    {
        var elements = (long)shape.Tasks * shape.Features;
        TensorArguments.RequireDisjoint(
            NamedMemory.Read(nameof(weights), weights, elements * shape.Actions * sizeof(float)),
            NamedMemory.Written(nameof(mean), mean, elements * sizeof(float)));
        switch (backend)
        {
            case AuxBackend.Cpu:
                MeanCpu(weights, shape, mean);
                break;
            case AuxBackend.Reference:
                MeanReference(weights, shape, mean);
                break;
            case AuxBackend.Cuda:
                MeanCuda(weights, shape, mean, device, stream);
                break;
            default:
                throw new BackendUnavailableException(nameof(PvnHead), backend, "it has no implementation there");
        }

        Support.Count(backend);
    }
}
