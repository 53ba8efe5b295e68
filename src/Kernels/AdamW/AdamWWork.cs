using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>One parameter with its moments and gradient: addresses that have been checked, and the settings that it follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct AdamWRow
{
    /// <summary>float32, or a 16-bit type with a <see cref="Master"/>.</summary>
    public nint Parameter;

    /// <summary>The parameter in float32, where its own type is a 16-bit one; else 0.</summary>
    public nint Master;

    /// <summary>0 where there is none: the row is left alone.</summary>
    public nint Gradient;

    public nint FirstMoment;
    public nint SecondMoment;
    public DType ParameterType;
    public DType GradientType;

    /// <summary>Which of the call's settings apply.</summary>
    public int Settings;

    /// <summary>Where the value lies that takes the step: the master, else the parameter.</summary>
    public readonly nint Value => Master != 0 ? Master : Parameter;
}

/// <summary>
/// What one AdamW call works on: n rows, and the addresses of k averages of each, 0 where a row has none. The tables are not moved by the
/// garbage collector while the call runs; whoever makes this sees to that.
/// </summary>
internal readonly unsafe struct AdamWWork(AdamWRow* rows, nint* averages, long* offsets, int tensorCount, int averageCount)
{
    public int TensorCount => tensorCount;

    public int AverageCount => averageCount;

    /// <summary>Elements of all tensors together, those without a gradient included.</summary>
    public long ElementCount => offsets[tensorCount];

    public ref readonly AdamWRow Row(int tensor) => ref rows[tensor];

    /// <summary>Where a tensor begins, counted in elements over all tensors.</summary>
    public long Offset(int tensor) => offsets[tensor];

    public long Count(int tensor) => offsets[tensor + 1] - offsets[tensor];

    public bool HasAverages(int tensor) => averageCount > 0 && averages[tensor * (long)averageCount] != 0;

    public float* Average(int tensor, int average) => (float*)averages[tensor * (long)averageCount + average];

    /// <summary>The tensor that holds element <paramref name="element"/>, which is below <see cref="ElementCount"/>.</summary>
    public int TensorAt(long element) => ElementOffsets.TensorAt(new(offsets, tensorCount + 1), element);
}

/// <summary>Where an AdamW call runs: the device that the memory is on, and the CUstream, 0 for the default one.</summary>
internal readonly record struct AdamWPlace(AuxDevice Device, nint Stream = 0);
