using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Which of the op's entries.</summary>
internal enum CalibrationEntry
{
    Quantile,
    Pack,
    Pinball,
}

/// <summary>
/// What one call of <see cref="IndicatorCalibration"/> works on: checked addresses, which do not move while the call runs.
/// </summary>
internal readonly unsafe struct IndicatorCalibrationWork
{
    public required CalibrationEntry Entry { get; init; }

    public required long Rows { get; init; }

    public required int Tasks { get; init; }

    public double Rate { get; init; }

    public double LearningRate { get; init; }

    public required DType FeatureType { get; init; }

    public required void* Features { get; init; }

    /// <summary>Written by the quantile, read by packing, both by the pinball step.</summary>
    public required float* Thresholds { get; init; }

    /// <summary>Null where it is not wanted, as for all outputs that follow.</summary>
    public byte* Bits { get; init; }

    public int* ActiveCounts { get; init; }

    public float* Gradient { get; init; }

    public double* Loss { get; init; }

    public double* TaskLosses { get; init; }

    public long BitBytes => (Tasks + 7L) / 8;

    /// <summary>How many states are to be in a set.</summary>
    public long Active => Wanted(Rate, Rows);

    public static long Wanted(double rate, long rows) => (long)Math.Floor(rate * rows + 0.5);

    /// <summary>∂loss/∂b of a task with so many x &lt; 0; a negative number of them stands for a NaN.</summary>
    public float GradientOf(int negative) =>
        negative < 0 ? float.NaN : (float)((1 - Rate - negative / (double)Rows) / Tasks);

    public void RequireDisjoint()
    {
        TensorArguments.RequireDisjoint(
            NamedMemory.Read("features", Features, Rows * Tasks * FeatureType.Size()),
            Entry == CalibrationEntry.Pack
                ? NamedMemory.Read("thresholds", Thresholds, Tasks * 4L)
                : NamedMemory.Written("thresholds", Thresholds, Tasks * 4L),
            NamedMemory.Written("bits", Bits, Bits == null ? 0 : Rows * BitBytes),
            NamedMemory.Written("activeCounts", ActiveCounts, ActiveCounts == null ? 0 : Tasks * 4L),
            NamedMemory.Written("gradient", Gradient, Gradient == null ? 0 : Tasks * 4L),
            NamedMemory.Written("loss", Loss, Loss == null ? 0 : 8),
            NamedMemory.Written("taskLosses", TaskLosses, TaskLosses == null ? 0 : Tasks * 8L));
    }
}
