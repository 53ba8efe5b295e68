using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class TabularTd
{
    /// <summary>
    /// One launch, a thread a column (<c>native/cuda/successor_measure/tabular_td.cu</c>). Before, unless the states are trusted, a check
    /// of them that waits for the stream.
    /// </summary>
    private static unsafe void RunCuda(in TabularTdWork work, AuxDevice device, nint stream)
    {
        RequireDeviceStates(work, device, stream);
        var batch = new Native.TabularTdBatch
        {
            StructSize = (uint)sizeof(Native.TabularTdBatch),
            States = work.States,
            Transitions = work.Transitions,
            CountsNext = work.Start == Start.Next ? 1u : 0,
            Normalised = work.Normalised ? 1u : 0,
            StepSize = work.StepSize,
            Discount = work.Discount,
            Measure = work.Measure,
            Snapshot = work.Order == TransitionOrder.Snapshot ? work.Scratch : null,
            Current = work.Current,
            Next = work.Next,
            Done = work.Done,
        };
        NativeStatus.Check(
            Native.TabularTd(CudaContext.Of(device.Index, nameof(TabularTd)).Handle, stream, &batch), nameof(TabularTd));
    }

    private static unsafe void RequireDeviceStates(in TabularTdWork work, AuxDevice device, nint stream)
    {
        if (work.TrustStates || device.Kind == AuxDeviceKind.Host) // host memory was looked at already
            return;
        DeviceIndices.Require(work.Current, work.Transitions, work.States, device, stream, "current", nameof(TabularTd));
        DeviceIndices.Require(work.Next, work.Transitions, work.States, device, stream, "next", nameof(TabularTd));
    }
}
