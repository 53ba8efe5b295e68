using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class TokenCompact
{
    /// <summary>A launch a tensor (<see cref="TokenCompactKernel"/>), forwards or backwards.</summary>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe void RunIlgpu(in TokenCompactWork work, bool forward, AuxDevice device, nint stream)
    {
        if (device.Kind != AuxDeviceKind.Host)
            work.CheckMemory(forward);
        foreach (var item in work.Items)
            item.RequireFewDimensions();
        try
        {
            var ilgpu = IlgpuDevice.Of(device, nameof(TokenCompact));
            using var scope = ilgpu.Enter();
            var on = ilgpu.Stream(stream);
            var selection = SelectionOf(work, forward, ilgpu);
            var launches = new List<Action>(work.Items.Length);
            foreach (var item in work.Items) // all views are made, and so all addresses checked, before the first launch
            {
                launches.Add(item.Alignment switch
                {
                    16 => Prepare<UInt4>(item, selection, forward, ilgpu, on),
                    8 => Prepare<ulong>(item, selection, forward, ilgpu, on),
                    4 => Prepare<uint>(item, selection, forward, ilgpu, on),
                    2 => Prepare<ushort>(item, selection, forward, ilgpu, on),
                    _ => Prepare<byte>(item, selection, forward, ilgpu, on),
                });
            }

            foreach (var launch in launches)
                launch();
            ilgpu.AfterLaunch(on);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(TokenCompact), error) is { } translated)
        {
            throw translated;
        }
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe Action Prepare<T>(
        CompactItem item, IlgpuSelection selection, bool forward, IlgpuDevice device, AcceleratorStream stream) where T : unmanaged
    {
        var inPlace = forward && item.IsInPlace;
        var rowLength = item.RowBytes / sizeof(T);
        var units = item.Strips * rowLength * (inPlace ? 1 : item.DestinationTokens);
        if (units == 0)
            return () => { };
        var views = new TokenRowsViews<T>
        {
            Source = IlgpuView.Of<T>(device, item.Source, item.SourceBytes / sizeof(T), $"{item.Name}.source"),
            Destination = IlgpuView.Of<T>(device, item.Destination, item.DestinationBytes / sizeof(T), $"{item.Name}.destination"),
            Map = selection.Map,
            Begins = selection.Begins,
            Bases = selection.Bases,
            First = item.Dimension(0, sizeof(T)),
            Middle = item.Dimension(1, sizeof(T)),
            Last = item.Dimension(2, sizeof(T)),
            SourceStep = item.SourceStep / sizeof(T),
            DestinationStep = item.DestinationStep / sizeof(T),
            RowLength = rowLength,
            Units = units,
            SourceTokens = checked((int)item.SourceTokens),
            DestinationTokens = checked((int)item.DestinationTokens),
            Segments = selection.Segments,
            SegmentDimension = item.SegmentDimension,
            ClearsRest = !forward || item.ClearRest ? 1 : 0,
        };
        var block = device.Threads(TokenCompactKernel.Threads);
        Action<TokenRowsViews<T>> kernel = inPlace ? TokenCompactKernel.Move : TokenCompactKernel.Copy;
        var launcher = device.Kernel<Action<AcceleratorStream, KernelConfig, TokenRowsViews<T>>>(kernel, TokenCompactKernel.Threads);
        var config = new KernelConfig(checked((int)((units + block - 1) / block)), block);
        return () => launcher(stream, config, views);
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static unsafe IlgpuSelection SelectionOf(in TokenCompactWork work, bool forward, IlgpuDevice device)
    {
        var bounds = IlgpuView.Of<int>(device, work.Bounds, work.Segments + 1L, "segments");
        var offsets = IlgpuView.Of<int>(device, work.Offsets, work.Segments + 1L, "selection.Offsets");
        var map = forward
            ? IlgpuView.Of<int>(device, work.Indices, work.MapLength, "selection.Indices")
            : IlgpuView.Of<int>(device, work.Slots, work.MapLength, "selection.Slots");
        return forward ? new(map, offsets, bounds, work.Segments) : new(map, bounds, offsets, work.Segments);
    }

    private readonly record struct IlgpuSelection(ArrayView<int> Map, ArrayView<int> Begins, ArrayView<int> Bases, int Segments);
}
