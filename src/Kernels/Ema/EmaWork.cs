using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// What one EMA call works on: for each of n tensors the address of the source and of its k averages, side by side, all of them checked.
/// The tables are not moved by the garbage collector while the call runs; whoever makes this sees to that. Without
/// <paramref name="averageTypes"/>, one an average, all averages are float32; else they are float32 or bfloat16, and
/// <paramref name="rounding"/> says how to round to the latter.
/// </summary>
internal readonly unsafe struct EmaWork(
    nint* addresses, long* offsets, DType* sourceTypes, int tensorCount, int averageCount,
    DType* averageTypes = null, EmaRounding rounding = default)
{
    public int TensorCount => tensorCount;

    public int AverageCount => averageCount;

    /// <summary>Elements of all tensors together.</summary>
    public long ElementCount => offsets[tensorCount];

    /// <summary>Where tensor <paramref name="tensor"/> begins, counted in elements over all tensors.</summary>
    public long Offset(int tensor) => offsets[tensor];

    /// <summary>The whole table of addresses, a row a tensor: the source, then its averages.</summary>
    public nint* Addresses => addresses;

    /// <summary>The types of all sources.</summary>
    public DType* SourceTypes => sourceTypes;

    public DType SourceType(int tensor) => sourceTypes[tensor];

    public void* Source(int tensor) => (void*)addresses[tensor * (averageCount + 1L)];

    /// <summary>The address of an average, whatever its type.</summary>
    public void* AverageAddress(int tensor, int average) => (void*)addresses[tensor * (averageCount + 1L) + 1 + average];

    /// <summary>The address of a float32 average.</summary>
    public float* Average(int tensor, int average) => (float*)AverageAddress(tensor, average);

    public DType AverageType(int average) => averageTypes == null ? DType.Float32 : averageTypes[average];

    /// <summary>Whether any average is stored in bfloat16.</summary>
    public bool HasBFloat16Averages =>
        averageTypes != null && new ReadOnlySpan<DType>(averageTypes, averageCount).Contains(DType.BFloat16);

    public bool HasOnlyBFloat16Averages =>
        averageTypes != null && !new ReadOnlySpan<DType>(averageTypes, averageCount).ContainsAnyExcept(DType.BFloat16);

    public EmaRounding Rounding => rounding;

    /// <summary>The tensor that holds element <paramref name="element"/>, which is below <see cref="ElementCount"/>.</summary>
    public int TensorAt(long element) => ElementOffsets.TensorAt(new(offsets, tensorCount + 1), element);
}

/// <summary>Where an EMA call runs: the device that the memory is on, and the CUstream, 0 for the default one.</summary>
internal readonly record struct EmaPlace(AuxDevice Device, nint Stream = 0);

/// <summary>How one decay is applied; <see cref="EmaUpdate"/>'s remarks give the formulas.</summary>
internal enum EmaRule
{
    /// <summary>β = 1: nothing to do.</summary>
    Keep,

    /// <summary>w &lt; ½: e ← fma(w, p − e, e).</summary>
    FromAverage,

    /// <summary>w ≥ ½: e ← fma(−β, p − e, p).</summary>
    FromSource,

    /// <summary>β = 0: e ← p.</summary>
    Copy,
}

/// <summary>A decay as the kernels use it: the rule and its float32 coefficient.</summary>
internal readonly record struct EmaStep(EmaRule Rule, float Coefficient)
{
    /// <summary>Forms the weight in double: 1f − 0.9999f would be off by 1.7e-4 of itself.</summary>
    public static EmaStep Of(double decay)
    {
        var weight = (float)(1.0 - decay);
        return decay == 0 ? new(EmaRule.Copy, 0)
            : decay == 1 ? new(EmaRule.Keep, 0)
            : weight < 0.5f ? new(EmaRule.FromAverage, weight)
            : new(EmaRule.FromSource, -(float)decay);
    }
}
