namespace AuxCore.Kernels;

/// <summary>The gradients that a head's update over spans writes. Each is optional: leave it empty.</summary>
public readonly ref struct PvnGradients
{
    /// <summary>[B, F]: ∂loss/∂φ.</summary>
    public Span<float> Features { get; init; }

    /// <summary>[T, A, F]: ∂loss/∂W.</summary>
    public Span<float> Weights { get; init; }

    internal void Check(int rows, PvnShape shape)
    {
        if (!Features.IsEmpty)
            TensorArguments.RequireLength(
                "gradients.Features", Features.Length, rows, shape.Features, "gradients");
        if (!Weights.IsEmpty && Weights.Length != (Int128)shape.Tasks * shape.Actions * shape.Features)
            throw TensorArguments.Refused(
                $"gradients.Weights: {Weights.Length} elements do not match shape "
                + $"[{shape.Tasks}, {shape.Actions}, {shape.Features}]",
                "gradients");
    }
}

/// <summary>What one call of <see cref="PvnHead"/> works on: checked addresses, which do not move while the call runs.</summary>
internal readonly unsafe struct PvnHeadWork
{
    public required PvnShape Shape { get; init; }

    public required float* Features { get; init; }

    public required float* NextFeatures { get; init; }

    public required float* Weights { get; init; }

    public required float* TargetMean { get; init; }

    public required int* Actions { get; init; }

    /// <summary>Null where it is not wanted, as the one that follows.</summary>
    public required float* FeatureGradient { get; init; }

    public required float* WeightGradient { get; init; }

    /// <summary>On a device only, as the two that follow.</summary>
    public void* Workspace { get; init; }

    public long WorkspaceBytes { get; init; }

    public bool TrustActions { get; init; }

    /// <summary>What comes after the products; its predictions, next values and gradient are null.</summary>
    public required IndicatorTdWork Td { get; init; }

    public long Rows => Td.Rows;

    /// <summary>The weights of one task and action, F of them.</summary>
    public float* Head(int task, int action) => Weights + ((long)task * Shape.Actions + action) * Shape.Features;

    public void RequireDisjoint()
    {
        long rows = Rows * Shape.Features * sizeof(float), heads = (long)Shape.Tasks * Shape.Features * sizeof(float);
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("features", Features, rows),
            NamedMemory.Read("nextFeatures", NextFeatures, rows),
            NamedMemory.Read("weights", Weights, heads * Shape.Actions),
            NamedMemory.Read("targetMean", TargetMean, heads),
            NamedMemory.Read("actions", Actions, Rows * sizeof(int)),
            NamedMemory.Read("done", Td.Done, Rows),
            NamedMemory.Read("indicators", Td.Features, Td.FeatureBytes),
            NamedMemory.Read("thresholds", Td.Thresholds, Td.Thresholds == null ? 0 : Td.Tasks * 4L),
            NamedMemory.Written("gradients.Features", FeatureGradient, FeatureGradient == null ? 0 : rows),
            NamedMemory.Written("gradients.Weights", WeightGradient, WeightGradient == null ? 0 : heads * Shape.Actions),
            NamedMemory.Written("workspace", Workspace, WorkspaceBytes),
            NamedMemory.Written("loss", Td.Loss, Td.Loss == null ? 0 : 8),
            NamedMemory.Written("rowLosses", Td.RowLosses, Td.RowLosses == null ? 0 : Rows * 8),
            NamedMemory.Written("activeCounts", Td.ActiveCounts, Td.ActiveCounts == null ? 0 : Td.Tasks * 4L),
            NamedMemory.Written("meanAbsoluteErrors", Td.MeanAbsoluteErrors, Td.MeanAbsoluteErrors == null ? 0 : Td.Tasks * 4L));
    }
}
