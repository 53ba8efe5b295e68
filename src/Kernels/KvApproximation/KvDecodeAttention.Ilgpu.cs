using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class KvDecodeAttention
{
    /// <summary>A launch, and where positions are split a second one that merges (<see cref="KvDecodeAttentionKernel"/>).</summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in KvAttentionWork work, in TensorView workspace, AuxDevice device, nint stream)
    {
        RequireIlgpuKernel(work);
        var plan = new IlgpuPlan(work);
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(KvDecodeAttention));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            using var own = device.Kind == AuxDeviceKind.Host
                ? new IlgpuBuffer<byte>(ilgpu, checked((int)plan.Bytes), nameof(KvDecodeAttention)) : null; // host memory, in a test
            if (own is null)
                TensorArguments.RequireWorkspace(workspace, nameof(workspace), plan.Bytes, device);
            var space = own?.View ?? IlgpuView.Of<byte>(ilgpu, (void*)workspace.Address, plan.Bytes, nameof(workspace));
            var views = Views(work, plan, space, ilgpu);
            if (work.LengthsAreOnHost)
                views.Lengths.CopyFrom(on, ilgpu.View<int>((nint)work.Lengths, views.Lengths.Length));
            Launch(ilgpu, on, KvDecodeAttentionKernel.Attend, plan.Blocks, views);
            if (plan.Splits > 1)
            {
                var block = ilgpu.Threads(KvDecodeAttentionKernel.Threads);
                Launch(ilgpu, on, KvDecodeAttentionKernel.Merge, checked((int)((work.Shape.QueryElements + block - 1) / block)), views);
            }

            if (own is not null)
                on.Synchronize();
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(KvDecodeAttention), error) is { } translated)
        {
            throw translated;
        }
    }

    private static unsafe void RequireIlgpuKernel(in KvAttentionWork work)
    {
        foreach (var format in (KvFormat[])[work.KeyFormat, work.ValueFormat])
        {
            if (format != KvFormat.F32)
                throw Missing($"{format} has no ILGPU kernel, F32 has one");
        }

        if (work.Cache.IsPaged)
            throw Missing("it has no ILGPU kernel for paged caches");
        if (work.PositionSums != null)
            throw Missing("it has no ILGPU kernel for sums of positions");
        const int Most = KvDecodeAttentionKernel.MostElements;
        if (work.Shape.HeadDim % 8 != 0 || work.Shape.HeadDim > Most)
            throw new ArgumentException($"shape: heads of {work.Shape.HeadDim} elements; on ILGPU it may be a multiple of 8 up to {Most}");
        foreach (var (name, plane) in ((string, KvPlane)[])
            [(work.Cache.Names.Keys, work.Cache.Keys), (work.Cache.Names.Values, work.Cache.Values)])
        {
            if (plane.OuterStep % sizeof(float) != 0 || plane.HeadStep % sizeof(float) != 0)
            {
                throw new ArgumentException(
                    $"{name}: steps of {plane.OuterStep} and {plane.HeadStep} bytes are no multiples of an element's");
            }
        }

        static BackendUnavailableException Missing(string reason) => new(nameof(KvDecodeAttention), AuxBackend.Ilgpu, reason);
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe KvDecodeAttentionViews Views(
        in KvAttentionWork work, in IlgpuPlan plan, ArrayView<byte> space, IlgpuDevice device)
    {
        var (shape, keys, values) = (work.Shape, work.Cache.Keys, work.Cache.Values);
        return new()
        {
            Query = IlgpuView.Of<float>(device, work.Queries, shape.QueryElements, "query"),
            Keys = IlgpuView.Of<float>(device, keys.First, keys.Extent / sizeof(float), work.Cache.Names.Keys),
            Values = IlgpuView.Of<float>(device, values.First, values.Extent / sizeof(float), work.Cache.Names.Values),
            Lengths = work.LengthsAreOnHost
                ? space.SubView(0, plan.Lengths * sizeof(int)).Cast<int>()
                : IlgpuView.Of<int>(device, work.Lengths, plan.Lengths, "lengths"),
            Output = IlgpuView.Of<float>(device, work.Outputs, shape.QueryElements, "output"),
            Maxima = Floats(plan.MaximaAt, plan.Parts),
            Totals = Floats(plan.TotalsAt, plan.Parts),
            Partials = Floats(plan.PartialsAt, plan.Parts * shape.HeadDim),
            KeySequenceStep = keys.OuterStep / sizeof(float),
            KeyHeadStep = keys.HeadStep / sizeof(float),
            ValueSequenceStep = values.OuterStep / sizeof(float),
            ValueHeadStep = values.HeadStep / sizeof(float),
            Factor = work.Scale * double.Log2(Math.E),
            QueryHeads = shape.QueryHeads,
            KvHeads = shape.KvHeads,
            HeadDim = shape.HeadDim,
            Positions = keys.Positions,
            Splits = plan.Splits,
            LengthsAreOfHeads = work.LengthsAreOfHeads ? 1 : 0,
        };

        ArrayView<float> Floats(long at, long count) =>
            count == 0 ? device.View<float>(0, 0) : space.SubView(at, count * sizeof(float)).Cast<float>();
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static void Launch(
        IlgpuDevice device, AcceleratorStream stream, Action<KvDecodeAttentionViews> kernel, int blocks, in KvDecodeAttentionViews views)
    {
        var launcher = device.Kernel<Action<AcceleratorStream, KernelConfig, KvDecodeAttentionViews>>(
            kernel, KvDecodeAttentionKernel.Threads);
        launcher(stream, new KernelConfig(blocks, device.Threads(KvDecodeAttentionKernel.Threads)), views);
    }

    /// <summary>How the work is parted, by sizes alone, and where things lie in the workspace, in bytes.</summary>
    internal readonly struct IlgpuPlan
    {
        private const int WantedBlocks = 1056; // eight for each multiprocessor of an H100
        private const int LeastPositions = 256; // of the capacity, that a split is for
        private const int MostSplits = 128;
        private const int Alignment = 256;

        public IlgpuPlan(in KvAttentionWork work)
        {
            var shape = work.Shape;
            var headBlocks = (shape.HeadsPerGroup + KvDecodeAttentionKernel.Heads - 1) / KvDecodeAttentionKernel.Heads;
            var units = checked(shape.Batch * shape.KvHeads * headBlocks);
            var useful = Math.Min(work.Cache.Keys.Positions / LeastPositions + 1, MostSplits);
            Splits = Math.Clamp((WantedBlocks - 1) / units + 1, 1, useful);
            Blocks = checked(units * Splits);
            Lengths = work.LengthsAreOfHeads ? shape.Batch * shape.KvHeads : shape.Batch;
            Parts = Splits == 1 ? 0 : (long)shape.Batch * shape.QueryHeads * Splits;
            MaximaAt = Aligned(Lengths * sizeof(int));
            TotalsAt = MaximaAt + Aligned(Parts * sizeof(float));
            PartialsAt = TotalsAt + Aligned(Parts * sizeof(float));
            Bytes = PartialsAt + Aligned(Parts * shape.HeadDim * sizeof(float));

            static long Aligned(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;
        }

        public int Splits { get; }

        /// <summary>Blocks that attend.</summary>
        public int Blocks { get; }

        public long Lengths { get; }

        /// <summary>Splits of all query heads; 0 where there is nothing to merge.</summary>
        public long Parts { get; }

        public long MaximaAt { get; }

        public long TotalsAt { get; }

        public long PartialsAt { get; }

        public long Bytes { get; }
    }
}
