using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class TokenPool
{
    /// <summary>One launch (<see cref="TokenPoolKernel"/>).</summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in TokenPoolWork work, bool backward, AuxDevice device, nint stream)
    {
        var (all, few) = (work.Batch * work.Grid.Tokens * work.Channels, work.Batch * work.Grid.Cells * work.Channels);
        var (read, written) = backward ? (few, all) : (all, few);
        if (written == 0)
            return;
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(TokenPool));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            var isWide = work.DType == DType.Float32;
            var (windowHeight, windowWidth) = work.Grid.WindowSize;
            var (source, destination) = backward ? ("pooledGradient", "gradient") : ("tokens", "pooled");
            var views = new TokenPoolViews
            {
                Source = IlgpuView.Of<float>(ilgpu, work.Source, isWide ? read : 0, source),
                NarrowSource = IlgpuView.Of<ushort>(ilgpu, work.Source, isWide ? 0 : read, source),
                Destination = IlgpuView.Of<float>(ilgpu, work.Destination, isWide ? written : 0, destination),
                NarrowDestination = IlgpuView.Of<ushort>(ilgpu, work.Destination, isWide ? 0 : written, destination),
                Units = written,
                Height = work.Grid.Height,
                Width = work.Grid.Width,
                Channels = work.Channels,
                Rows = work.Grid.Rows,
                Columns = work.Grid.Columns,
                WindowHeight = windowHeight,
                WindowWidth = windowWidth,
                Kind = FloatKinds.Of(work.DType),
            };
            var block = ilgpu.Threads(TokenPoolKernel.Threads);
            var config = new KernelConfig(checked((int)((written + block - 1) / block)), block);
            Action<TokenPoolViews> kernel = backward ? TokenPoolKernel.Spread : TokenPoolKernel.Pool;
            ilgpu.Kernel<Action<AcceleratorStream, KernelConfig, TokenPoolViews>>(kernel, TokenPoolKernel.Threads)(on, config, views);
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(TokenPool), error) is { } translated)
        {
            throw translated;
        }
    }
}
