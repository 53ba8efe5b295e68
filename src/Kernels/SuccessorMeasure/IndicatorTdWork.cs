using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// What one call of <see cref="IndicatorTd"/> works on: addresses that have been checked, and do not move while the call runs.
/// </summary>
internal readonly unsafe struct IndicatorTdWork
{
    public required long Rows { get; init; }

    public required int Tasks { get; init; }

    public required double Discount { get; init; }

    public required bool Normalised { get; init; }

    /// <summary>Of predictions and next values: float32 or bfloat16.</summary>
    public required DType ValueType { get; init; }

    public required void* Prediction { get; init; }

    public required void* NextValues { get; init; }

    public required byte* Done { get; init; }

    /// <summary>Float32 or bfloat16 for features, uint8 for packed bits.</summary>
    public required DType FeatureType { get; init; }

    /// <summary>The features, or the bits.</summary>
    public required void* Features { get; init; }

    public required float* Thresholds { get; init; }

    /// <summary>Null where the gradient is not wanted, as for all outputs that follow.</summary>
    public required float* Gradient { get; init; }

    public required double* Loss { get; init; }

    public required double* RowLosses { get; init; }

    public required int* ActiveCounts { get; init; }

    public required float* MeanAbsoluteErrors { get; init; }

    /// <summary>
    /// Null, or for each row of predictions and gradient the row of everything else that it belongs to: a permutation.
    /// </summary>
    public int* Order { get; init; }

    /// <summary>The row of everything else at a row of predictions and gradient.</summary>
    public long RowAt(long place) => Order == null ? place : Order[place];

    public bool WantsStatistics => ActiveCounts != null || MeanAbsoluteErrors != null;

    /// <summary>What a set counts, in float32.</summary>
    public float Height => (float)SuccessorArguments.Height(Discount, Normalised);

    public long BitBytes => (Tasks + 7L) / 8;

    /// <summary>Bytes of all features, or of all bits.</summary>
    public long FeatureBytes => FeatureType == DType.UInt8 ? Rows * BitBytes : Rows * Tasks * FeatureType.Size();

    /// <summary>The same, with the tensors that lie between the products of <see cref="PvnHead"/>.</summary>
    public IndicatorTdWork With(float* prediction, float* nextValues, float* gradient, int* order) => new()
    {
        Rows = Rows,
        Tasks = Tasks,
        Discount = Discount,
        Normalised = Normalised,
        ValueType = ValueType,
        Prediction = prediction,
        NextValues = nextValues,
        Done = Done,
        FeatureType = FeatureType,
        Features = Features,
        Thresholds = Thresholds,
        Gradient = gradient,
        Loss = Loss,
        RowLosses = RowLosses,
        ActiveCounts = ActiveCounts,
        MeanAbsoluteErrors = MeanAbsoluteErrors,
        Order = order,
    };

    /// <summary>Refuses outputs that share memory with anything.</summary>
    public void RequireDisjoint()
    {
        var elements = Rows * Tasks;
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("prediction", Prediction, elements * ValueType.Size()),
            NamedMemory.Read("nextValues", NextValues, elements * ValueType.Size()),
            NamedMemory.Read("done", Done, Rows),
            NamedMemory.Read("indicators", Features, FeatureBytes),
            NamedMemory.Read("thresholds", Thresholds, Thresholds == null ? 0 : Tasks * 4L),
            NamedMemory.Written("gradient", Gradient, Gradient == null ? 0 : elements * 4),
            NamedMemory.Written("loss", Loss, Loss == null ? 0 : 8),
            NamedMemory.Written("rowLosses", RowLosses, RowLosses == null ? 0 : Rows * 8),
            NamedMemory.Written("activeCounts", ActiveCounts, ActiveCounts == null ? 0 : Tasks * 4L),
            NamedMemory.Written("meanAbsoluteErrors", MeanAbsoluteErrors, MeanAbsoluteErrors == null ? 0 : Tasks * 4L));
    }
}
