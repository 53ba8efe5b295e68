using System.Runtime.InteropServices;
using ILGPU;

namespace AuxCore.Kernels;

/// <summary>
/// TabularTd's device code for ILGPU: a thread takes one column of the table through all transitions in their order, as in
/// <c>native/cuda/successor_measure/tabular_td.cu</c>.
/// </summary>
internal static class TabularTdKernel
{
    /// <summary>Threads of a block: a warp.</summary>
    public const int Threads = 32;

    /// <summary>Updates the table.</summary>
    public static void Update(TabularTdViews views)
    {
        var column = Grid.IdxX * Group.DimX + Group.IdxX;
        if (column >= views.States)
            return;
        for (var i = 0; i < views.Transitions; i++)
        {
            var (state, next) = (views.Current[i], views.Next[i]);
            if (state < 0 || state >= views.States)
                continue;
            var target = (views.CountsNext != 0 ? next : state) == column ? views.Height : 0;
            if (next < 0 || next >= views.States)
                target = float.NaN;
            else if (views.Done[i] == 0)
                target = KernelMath.MultiplyAdd(views.Discount, views.Snapshot[(long)next * views.States + column], target);
            var at = (long)state * views.States + column;
            var old = views.Measure[at];
            views.Measure[at] = KernelMath.MultiplyAdd(views.StepSize, target - old, old);
        }
    }

    /// <summary>Takes the snapshot, a thread an element.</summary>
    public static void Copy(ArrayView<float> from, ArrayView<float> to)
    {
        var at = (long)Grid.IdxX * Group.DimX + Group.IdxX;
        if (at < from.Length)
            to[at] = from[at];
    }
}

/// <summary>What the kernel works on.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct TabularTdViews
{
    public ArrayView<float> Measure;

    /// <summary>Where next rows are read; the measure itself in sequence.</summary>
    public ArrayView<float> Snapshot;

    public ArrayView<int> Current;
    public ArrayView<int> Next;
    public ArrayView<byte> Done;
    public int States;
    public int Transitions;
    public int CountsNext;
    public float StepSize;
    public float Discount;
    public float Height;
}
