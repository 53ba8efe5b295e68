using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What a pinball step over spans writes beside the thresholds. Each is optional: leave it empty.</summary>
public readonly ref struct PinballOutputs
{
    /// <summary>[T]: ∂loss/∂b.</summary>
    public Span<float> Gradient { get; init; }

    /// <summary>[B, <see cref="Indicators.BytesPerState"/>(T)]: the batch's indicators.</summary>
    public Span<byte> Bits { get; init; }

    /// <summary>[T]: how many of the B states are in each set; −1 with a NaN.</summary>
    public Span<int> ActiveCounts { get; init; }

    internal void Check(long rows, int tasks)
    {
        TensorArguments.RequireEmptyOrLength("outputs.Gradient", Gradient.Length, tasks, "outputs");
        if (!Bits.IsEmpty)
            TensorArguments.RequireLength(
                "outputs.Bits", Bits.Length, rows, Indicators.BytesPerState(tasks), "outputs");
        TensorArguments.RequireEmptyOrLength("outputs.ActiveCounts", ActiveCounts.Length, tasks, "outputs");
    }
}

/// <summary>
/// What a pinball step writes beside the thresholds, in memory of any framework. Each is optional: leave it out (a default view).
/// </summary>
public readonly struct PinballViews
{
    /// <summary>float32 [T]: ∂loss/∂b.</summary>
    public TensorView Gradient { get; init; }

    /// <summary>
    /// float64, one element: the loss. On a device it is summed from <see cref="TaskLosses"/>, which then is wanted too: nothing is
    /// allocated behind the caller's back, so that a call can be captured in a graph.
    /// </summary>
    public TensorView Loss { get; init; }

    /// <summary>float64 [T]: each task's own loss, the mean over the batch. Their mean is the loss.</summary>
    public TensorView TaskLosses { get; init; }

    /// <summary>uint8 [B, <see cref="Indicators.BytesPerState"/>(T)]: the batch's indicators.</summary>
    public TensorView Bits { get; init; }

    /// <summary>int32 [T]: how many of the B states are in each set; −1 with a NaN.</summary>
    public TensorView ActiveCounts { get; init; }

    internal void KeepAlive() =>
        TensorArguments.KeepAlive(Gradient.Owner, Loss.Owner, TaskLosses.Owner, Bits.Owner, ActiveCounts.Owner);

    internal void Check(long rows, int tasks, AuxDevice device)
    {
        TensorArguments.RequireIfWanted(Gradient, "outputs.Gradient", DType.Float32, [tasks], device, "outputs");
        TensorArguments.RequireLoss(Loss, TaskLosses, "outputs.TaskLosses", device);
        TensorArguments.RequireIfWanted(TaskLosses, "outputs.TaskLosses", DType.Float64, [tasks], device, "outputs");
        TensorArguments.RequireIfWanted(
            Bits, "outputs.Bits", DType.UInt8, [rows, Indicators.BytesPerState(tasks)], device, "outputs");
        TensorArguments.RequireIfWanted(
            ActiveCounts, "outputs.ActiveCounts", DType.Int32, [tasks], device, "outputs");
    }
}
