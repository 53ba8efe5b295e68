using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class TokenSelect
{
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static void RunIlgpuOnDevice(in TokenSelectWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        work.RequireBounds();
        work.RequireDisjoint();
        RunIlgpu(work, workspace, device, stream);
        Support.Count(AuxBackend.Ilgpu);
    }

    /// <summary>
    /// One launch with a block a segment, or two where it depends on scores where a segment's indices begin
    /// (<see cref="TokenSelectKernel"/>).
    /// </summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in TokenSelectWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(TokenSelect));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            var needsCuts = work.Segments > 1 && (work.Always != null || work.Budget.Rule >= BudgetRule.Threshold);
            using var own = needsCuts && device.Kind == AuxDeviceKind.Host ? new IlgpuBuffer<TokenCut>(
                ilgpu, work.Segments, nameof(TokenSelect)) : null; // host memory, in a test
            if (needsCuts && own is null)
                TensorArguments.RequireWorkspace(workspace, "selection.Workspace", WorkspaceBytes(work.Segments), device);
            var views = Views(work, ilgpu);
            if (needsCuts)
            {
                views.Cuts = own?.View ?? IlgpuView.Of<TokenCut>(ilgpu, (void*)workspace.Address, work.Segments, "selection.Workspace");
                Launch(ilgpu, on, views, TokenSelectKernel.Rank);
                Launch(ilgpu, on, views, TokenSelectKernel.Emit);
            }
            else
            {
                Launch(ilgpu, on, views, TokenSelectKernel.Rank | TokenSelectKernel.Emit);
            }

            if (own is not null)
                on.Synchronize();
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(TokenSelect), error) is { } translated)
        {
            throw translated;
        }
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static void Launch(IlgpuDevice device, AcceleratorStream stream, TokenSelectKernelViews views, int phases)
    {
        views.Phases = phases;
        var launcher = device.Kernel<Action<AcceleratorStream, KernelConfig, TokenSelectKernelViews>>(
            TokenSelectKernel.Select, TokenSelectKernel.Threads);
        launcher(stream, new KernelConfig(Math.Max(1, views.Segments), device.Threads(TokenSelectKernel.Threads)), views);
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe TokenSelectKernelViews Views(in TokenSelectWork work, IlgpuDevice device)
    {
        var wide = work.ScoreType == DType.Float32 ? work.Tokens : 0;
        return new TokenSelectKernelViews
        {
            Scores = IlgpuView.Of<float>(device, work.Scores, wide, "scores"),
            NarrowScores = IlgpuView.Of<ushort>(device, work.Scores, work.Tokens - wide, "scores"),
            Bounds = IlgpuView.Of<int>(device, work.Bounds, work.BoundCount, "segments"),
            Always = IlgpuView.Of<byte>(device, work.Always, work.Tokens, "always"),
            Indices = IlgpuView.Of<int>(device, work.Indices, work.IndexCapacity, "selection.Indices"),
            Offsets = IlgpuView.Of<int>(device, work.Offsets, work.BoundCount, "selection.Offsets"),
            Slots = IlgpuView.Of<int>(device, work.Slots, work.Tokens, "selection.Slots"),
            NaNCounts = IlgpuView.Of<int>(device, work.NaNCounts, work.Segments, "selection.NaNCounts"),
            Value = work.Budget.Value,
            Tokens = checked((int)work.Tokens),
            Segments = work.Segments,
            Kind = FloatKinds.Of(work.ScoreType),
            Rule = work.Budget.Rule,
            Count = work.Budget.Tokens,
            Minimum = work.Budget.Minimum,
            Maximum = work.Budget.Maximum,
        };
    }
}
