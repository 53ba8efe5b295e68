using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class KvQuantise
{
    /// <summary>One launch (<see cref="KvQuantiseKernel"/>).</summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in KvQuantiseWork work, AuxDevice device, nint stream)
    {
        if (work.Format != KvFormat.Q8_0)
            throw new BackendUnavailableException(nameof(KvQuantise), AuxBackend.Ilgpu, $"{work.Format} has no ILGPU kernel, Q8_0 has one");
        if (work.Count == 0)
            return;
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(KvQuantise));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            var (elements, stored) = work.IsRestore ? ("destination", "source") : ("source", "destination");
            var views = new KvQuantiseViews
            {
                Elements = IlgpuView.Of<float>(ilgpu, work.Elements, work.Count, elements),
                Stored = IlgpuView.Of<byte>(ilgpu, work.Bytes, work.Format.ByteCount(work.Count), stored),
                Groups = work.Count / Q8Group.Elements,
            };
            var block = ilgpu.Threads(KvQuantiseKernel.Threads);
            var perBlock = block / KvQuantiseKernel.Lanes;
            var config = new KernelConfig(checked((int)((views.Groups + perBlock - 1) / perBlock)), block);
            Action<KvQuantiseViews> kernel = work.IsRestore ? KvQuantiseKernel.Dequantise : KvQuantiseKernel.Quantise;
            ilgpu.Kernel<Action<AcceleratorStream, KernelConfig, KvQuantiseViews>>(kernel, KvQuantiseKernel.Threads)(on, config, views);
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(KvQuantise), error) is { } translated)
        {
            throw translated;
        }
    }
}
