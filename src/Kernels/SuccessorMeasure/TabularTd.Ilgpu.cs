using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class TabularTd
{
    /// <summary>
    /// One launch (<see cref="TabularTdKernel"/>), and one before it that takes a snapshot. States are checked as for Cuda.
    /// </summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in TabularTdWork work, AuxDevice device, nint stream)
    {
        RequireDeviceStates(work, device, stream);
        if (work.Transitions == 0)
            return;
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(TabularTd));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            var elements = (long)work.States * work.States;
            var measure = IlgpuView.Of<float>(ilgpu, work.Measure, elements, "measure");
            var read = measure;
            using var own = work.Order == TransitionOrder.Snapshot && work.Scratch == null ? new IlgpuBuffer<float>(
                ilgpu, checked((int)elements), nameof(TabularTd)) : null; // host memory, in a test
            if (work.Order == TransitionOrder.Snapshot)
            {
                read = own?.View ?? IlgpuView.Of<float>(ilgpu, work.Scratch, elements, "scratch");
                var block = ilgpu.Threads(IndicatorTdKernel.Threads);
                ilgpu.Kernel<Action<AcceleratorStream, KernelConfig, ArrayView<float>, ArrayView<float>>>(
                    TabularTdKernel.Copy, IndicatorTdKernel.Threads)(
                    on, new KernelConfig(checked((int)((elements + block - 1) / block)), block), measure, read);
            }

            var views = new TabularTdViews
            {
                Measure = measure,
                Snapshot = read,
                Current = IlgpuView.Of<int>(ilgpu, work.Current, work.Transitions, "current"),
                Next = IlgpuView.Of<int>(ilgpu, work.Next, work.Transitions, "next"),
                Done = IlgpuView.Of<byte>(ilgpu, work.Done, work.Transitions, "done"),
                States = work.States,
                Transitions = work.Transitions,
                CountsNext = work.Start == Start.Next ? 1 : 0,
                StepSize = (float)work.StepSize,
                Discount = (float)work.Discount,
                Height = (float)SuccessorArguments.Height(work.Discount, work.Normalised),
            };
            ilgpu.Kernel<Action<AcceleratorStream, KernelConfig, TabularTdViews>>(TabularTdKernel.Update, TabularTdKernel.Threads)(
                on, new KernelConfig((work.States + TabularTdKernel.Threads - 1) / TabularTdKernel.Threads, TabularTdKernel.Threads),
                views);
            if (own is not null)
                on.Synchronize();
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(TabularTd), error) is { } translated)
        {
            throw translated;
        }
    }
}
