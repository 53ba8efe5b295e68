using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class SuccessorSweep
{
    /// <summary>
    /// A launch a sweep (<c>native/cuda/successor_measure/successor_sweep.cu</c>). The transitions and a second table are on the device for
    /// as long as the call takes, so it waits for its work.
    /// </summary>
    private static unsafe void RunCuda(in SuccessorSweepWork work, AuxDevice device, nint stream)
    {
        var context = CudaContext.Of(device.Index, nameof(SuccessorSweep));
        using var offsets = DeviceBuffer.CopyOf(work.Transitions.RowOffsets, device.Index);
        using var columns = DeviceBuffer.CopyOf(work.Transitions.Columns, device.Index);
        using var values = DeviceBuffer.CopyOf<float>(work.Transitions.NarrowValues, device.Index);
        using var scratch = DeviceBuffer.Allocate<float>((long)work.States * work.States, device.Index);
        var sweep = new Native.Sweep
        {
            StructSize = (uint)sizeof(Native.Sweep),
            States = work.States,
            Entries = work.Transitions.Columns.Length,
            Sweeps = work.Sweeps,
            InPlace = work.Order == SweepOrder.GaussSeidel ? 1u : 0,
            CountsNext = work.Start == Start.Next ? 1u : 0,
            Normalised = work.Normalised ? 1u : 0,
            Discount = work.Discount,
            RowOffsets = (int*)offsets.Address,
            Columns = (int*)columns.Address,
            Values = (float*)values.Address,
            Measure = work.Measure,
            Scratch = (float*)scratch.Address,
            Changes = work.ColumnChanges,
        };
        NativeStatus.Check(Native.SuccessorSweep(context.Handle, stream, &sweep), nameof(SuccessorSweep));
        NativeStatus.Check(Native.StreamSynchronize(context.Handle, stream), nameof(SuccessorSweep));
    }
}
