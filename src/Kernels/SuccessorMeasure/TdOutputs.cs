using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What a TD op over spans writes beside its gradient. Each is optional: leave it empty.</summary>
public readonly ref struct TdStatistics
{
    /// <summary>[B]: each transition's own loss, the mean of ½ δ² over the tasks. Their mean is the loss.</summary>
    public Span<double> RowLosses { get; init; }

    /// <summary>[T]: how many of the B states are in each set; −1 where a feature or the threshold is NaN.</summary>
    public Span<int> ActiveCounts { get; init; }

    /// <summary>[T]: the mean of |δ| over the batch.</summary>
    public Span<float> MeanAbsoluteErrors { get; init; }

    internal void Check(long rows, long tasks)
    {
        TensorArguments.RequireEmptyOrLength("statistics.RowLosses", RowLosses.Length, rows, "statistics");
        TensorArguments.RequireEmptyOrLength("statistics.ActiveCounts", ActiveCounts.Length, tasks, "statistics");
        TensorArguments.RequireEmptyOrLength("statistics.MeanAbsoluteErrors", MeanAbsoluteErrors.Length, tasks, "statistics");
    }
}

/// <summary>
/// What a TD op writes, in memory of any framework. Each is optional: leave it out (a default view). At least one is wanted.
/// </summary>
public readonly struct TdOutputs
{
    /// <summary>float32 [B, T]: ∂loss/∂Q.</summary>
    public TensorView Gradient { get; init; }

    /// <summary>
    /// float64, one element: the loss. On a device it is summed from <see cref="RowLosses"/>, which then is wanted too: nothing is
    /// allocated behind the caller's back, so that a call can be captured in a graph.
    /// </summary>
    public TensorView Loss { get; init; }

    /// <summary>float64 [B]: each transition's own loss, the mean of ½ δ² over the tasks.</summary>
    public TensorView RowLosses { get; init; }

    /// <summary>int32 [T]: how many of the B states are in each set; −1 where a feature or the threshold is NaN.</summary>
    public TensorView ActiveCounts { get; init; }

    /// <summary>float32 [T]: the mean of |δ| over the batch.</summary>
    public TensorView MeanAbsoluteErrors { get; init; }

    internal void KeepAlive() => TensorArguments.KeepAlive(
        Gradient.Owner, Loss.Owner, RowLosses.Owner, ActiveCounts.Owner, MeanAbsoluteErrors.Owner);

    internal void Check(long rows, long tasks, AuxDevice device)
    {
        var wanted =
            TensorArguments.RequireIfWanted(
                Gradient, "outputs.Gradient", DType.Float32, [rows, tasks], device, "outputs")
            | TensorArguments.RequireLoss(Loss, RowLosses, "outputs.RowLosses", device)
            | TensorArguments.RequireIfWanted(
                RowLosses, "outputs.RowLosses", DType.Float64, [rows], device, "outputs")
            | TensorArguments.RequireIfWanted(
                ActiveCounts, "outputs.ActiveCounts", DType.Int32, [tasks], device, "outputs")
            | TensorArguments.RequireIfWanted(
                MeanAbsoluteErrors, "outputs.MeanAbsoluteErrors", DType.Float32, [tasks], device, "outputs");
        if (!wanted)
            throw TensorArguments.Refused("outputs: none is wanted", "outputs");
    }
}
