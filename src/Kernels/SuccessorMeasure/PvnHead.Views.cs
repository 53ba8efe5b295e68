using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// What a head's update writes, in memory of any framework. Each is optional: leave it out (a default view). At least one is wanted.
/// </summary>
public readonly struct PvnOutputs
{
    /// <summary>float32 [B, F]: ∂loss/∂φ.</summary>
    public TensorView FeatureGradient { get; init; }

    /// <summary>float32 [T, A, F]: ∂loss/∂W.</summary>
    public TensorView WeightGradient { get; init; }

    /// <summary>float64, one element: the loss. On a device it is summed from <see cref="RowLosses"/>, which then is wanted too.</summary>
    public TensorView Loss { get; init; }

    /// <summary>float64 [B]: each transition's own loss, the mean of ½ δ² over the tasks.</summary>
    public TensorView RowLosses { get; init; }

    /// <summary>int32 [T]: how many of the B states are in each set; −1 where a feature or the threshold is NaN.</summary>
    public TensorView ActiveCounts { get; init; }

    /// <summary>float32 [T]: the mean of |δ| over the batch.</summary>
    public TensorView MeanAbsoluteErrors { get; init; }

    internal void KeepAlive() => TensorArguments.KeepAlive(
        FeatureGradient.Owner, WeightGradient.Owner, Loss.Owner, RowLosses.Owner, ActiveCounts.Owner, MeanAbsoluteErrors.Owner);

    internal void Check(long rows, PvnShape shape, AuxDevice device)
    {
        var wanted =
            TensorArguments.RequireIfWanted(
                FeatureGradient, "outputs.FeatureGradient", DType.Float32, [rows, shape.Features], device, "outputs")
            | TensorArguments.RequireIfWanted(
                WeightGradient, "outputs.WeightGradient", DType.Float32, [shape.Tasks, shape.Actions, shape.Features],
                device, "outputs")
            | TensorArguments.RequireLoss(Loss, RowLosses, "outputs.RowLosses", device)
            | TensorArguments.RequireIfWanted(
                RowLosses, "outputs.RowLosses", DType.Float64, [rows], device, "outputs")
            | TensorArguments.RequireIfWanted(
                ActiveCounts, "outputs.ActiveCounts", DType.Int32, [shape.Tasks], device, "outputs")
            | TensorArguments.RequireIfWanted(
                MeanAbsoluteErrors, "outputs.MeanAbsoluteErrors", DType.Float32, [shape.Tasks], device, "outputs");
        if (!wanted)
            throw TensorArguments.Refused("outputs: none is wanted", "outputs");
    }
}

public static partial class PvnHead
{
    /// <summary>Averages weights over actions, in memory of any framework.</summary>
    /// <param name="weights">W̄ [T, A, F], float32, contiguous.</param>
    /// <param name="mean">[T, F], float32, contiguous.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Shapes, dtypes or devices do not fit, a tensor is not contiguous, the memory overlaps, or a
    /// stream of another device. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void MeanOverActions(
        in TensorView weights, in TensorView mean, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        var shape = RequireShape(weights);
        TensorArguments.Require(
            mean, nameof(mean), [DType.Float32], [shape.Tasks, shape.Features], weights.Device, nameof(mean));
        backend = Support.Resolve(backend, weights.Device);
        var on = CudaStream.HandleOn(stream, weights.Device, nameof(stream));
        RunMean((float*)weights.Address, shape, (float*)mean.Address, backend, weights.Device, on);
        TensorArguments.KeepAlive(weights.Owner, mean.Owner, stream);
    }

    /// <summary>One batch in memory of any framework: loss, and the gradients of features and weights.</summary>
    /// <param name="features">φ [B, F], float32, contiguous.</param>
    /// <param name="nextFeatures">φ̄ [B, F], float32, contiguous; rows of terminal transitions do not count.</param>
    /// <param name="weights">W [T, A, F], float32, contiguous.</param>
    /// <param name="targetMean">[T, F], float32, contiguous: the target network's weights, averaged by <c>MeanOverActions</c>.</param>
    /// <param name="actions">[B], int32: the actions that were taken, within [0, A).</param>
    /// <param name="done">[B], bool or uint8: not 0 where the transition is terminal.</param>
    /// <param name="indicators">The sets, for B states and T tasks.</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <param name="start">Which state's indicators were given.</param>
    /// <param name="normalised">Whether the measure is multiplied by 1 − γ.</param>
    /// <param name="outputs">What is wanted.</param>
    /// <param name="workspace">
    /// On a device: uint8, one dimension of at least <see cref="WorkspaceBytes"/>, whose contents become undefined. Else left out.
    /// </param>
    /// <param name="trustActions">
    /// Actions in host memory are checked always. On a device the check waits for the stream; true leaves it out, and a row with an action
    /// out of range then has a NaN loss and a NaN feature gradient.
    /// </param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">Ranks, shapes, dtypes or devices do not fit, a tensor is not contiguous, an output overlaps
    /// something, no output is wanted, the workspace is missing or too small, or a stream of another device. Nothing was
    /// written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// An action, the discount or <paramref name="start"/> is out of its range, or a size is below 1. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">Memory of a tensor, or the stream, was disposed.</exception>
    public static unsafe void Run(
        in TensorView features, in TensorView nextFeatures, in TensorView weights, in TensorView targetMean, in TensorView actions,
        in TensorView done, in IndicatorViews indicators, double discount, Start start, bool normalised, in PvnOutputs outputs,
        TensorView workspace = default, bool trustActions = false, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        SuccessorArguments.CheckDiscount(discount);
        SuccessorArguments.CheckStart(start);
        var shape = RequireShape(weights);
        var device = weights.Device;
        var (rows, _) = TensorArguments.RequireMatrix(features, nameof(features));
        TensorArguments.RequireAtLeastOne("B", rows);
        if (rows > int.MaxValue)
            throw new ArgumentException($"features: {features} has more than {int.MaxValue} rows", nameof(features));
        TensorArguments.Require(features, nameof(features), [DType.Float32], [rows, shape.Features], device, nameof(features));
        TensorArguments.Require(
            nextFeatures, nameof(nextFeatures), [DType.Float32], [rows, shape.Features], device, nameof(nextFeatures));
        TensorArguments.Require(
            targetMean, nameof(targetMean), [DType.Float32], [shape.Tasks, shape.Features], device, nameof(targetMean));
        TensorArguments.Require(actions, nameof(actions), [DType.Int32], [rows], device, nameof(actions));
        TensorArguments.Require(done, nameof(done), [DType.Bool, DType.UInt8], [rows], device, nameof(done));
        indicators.Check(rows, shape.Tasks, device);
        outputs.Check(rows, shape, device);
        backend = Support.Resolve(backend, device);
        var on = CudaStream.HandleOn(stream, device, nameof(stream));
        var onDevice = device.Kind != AuxDeviceKind.Host;
        if (onDevice)
            RequireWorkspace(workspace, rows, shape, device);
        else
            TensorArguments.RequireIndices(new((int*)actions.Address, (int)rows), shape.Actions, nameof(actions));

        var work = new PvnHeadWork
        {
            Shape = shape,
            Features = (float*)features.Address,
            NextFeatures = (float*)nextFeatures.Address,
            Weights = (float*)weights.Address,
            TargetMean = (float*)targetMean.Address,
            Actions = (int*)actions.Address,
            FeatureGradient = (float*)outputs.FeatureGradient.Address,
            WeightGradient = (float*)outputs.WeightGradient.Address,
            Workspace = onDevice ? (void*)workspace.Address : null,
            WorkspaceBytes = onDevice ? workspace.ByteCount : 0,
            TrustActions = trustActions,
            Td = new IndicatorTdWork
            {
                Rows = rows,
                Tasks = shape.Tasks,
                Discount = discount,
                Normalised = normalised,
                ValueType = DType.Float32,
                Prediction = null,
                NextValues = null,
                Done = (byte*)done.Address,
                FeatureType = indicators.IsPacked ? DType.UInt8 : indicators.Data.DType,
                Features = (void*)indicators.Data.Address,
                Thresholds = (float*)indicators.Thresholds.Address,
                Gradient = null,
                Loss = (double*)outputs.Loss.Address,
                RowLosses = (double*)outputs.RowLosses.Address,
                ActiveCounts = (int*)outputs.ActiveCounts.Address,
                MeanAbsoluteErrors = (float*)outputs.MeanAbsoluteErrors.Address,
            },
        };
        Run(work, backend, device, on);
        indicators.KeepAlive();
        outputs.KeepAlive();
        TensorArguments.KeepAlive(
            features.Owner, nextFeatures.Owner, weights.Owner, targetMean.Owner, actions.Owner, done.Owner, workspace.Owner, stream);
    }

    private static PvnShape RequireShape(in TensorView weights)
    {
        if (weights.Shape.Length != 3)
            throw new ArgumentException($"weights: {weights} is not of rank 3", nameof(weights));
        var (tasks, actions, features) = (weights.Shape[0], weights.Shape[1], weights.Shape[2]);
        if (Math.Max(tasks, Math.Max(actions, features)) > int.MaxValue)
            throw new ArgumentException($"weights: {weights} has a size beyond {int.MaxValue}", nameof(weights));
        var shape = new PvnShape((int)features, (int)tasks, (int)actions);
        CheckShape(shape);
        TensorArguments.Require(weights, nameof(weights), [DType.Float32], [tasks, actions, features], weights.Device, nameof(weights));
        return shape;
    }

    private static void RequireWorkspace(in TensorView workspace, long rows, PvnShape shape, AuxDevice device)
    {
        var bytes = WorkspaceBytes((int)rows, shape);
        if (workspace.Shape.Length != 1 || workspace.ElementCount < bytes)
            throw new ArgumentException($"workspace: {workspace}, but uint8[{bytes}] or more is needed on {device}", nameof(workspace));
        TensorArguments.Require(workspace, nameof(workspace), [DType.UInt8], [workspace.ElementCount], device, nameof(workspace));
    }

    /// <summary>The bytes that <c>Run</c> needs on a device, for what lies between its products.</summary>
    /// <param name="rows">B.</param>
    /// <param name="shape">F, T and A.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public static long WorkspaceBytes(int rows, PvnShape shape)
    {
        TensorArguments.RequireAtLeastOne("B", rows);
        CheckShape(shape);
        return PvnWorkspace.Bytes(rows, shape);
    }
}
