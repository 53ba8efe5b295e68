using System.Diagnostics.CodeAnalysis;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;

namespace AuxCore.Kernels;

public static partial class EmaUpdate
{
    /// <summary>
    /// One launch over all tensors (<see cref="EmaKernel"/>). The table of where they are stays on the device from one call to the next, as
    /// do the decays; a call that changes neither waits for nothing and copies nothing.
    /// </summary>
    /// <inheritdoc cref="RunCuda"/>
    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private static void RunIlgpu(in EmaWork work, ReadOnlySpan<double> decays, EmaPlace place, ref IDisposable? table)
    {
        try
        {
            var device = IlgpuDevice.Of(place.Device, nameof(EmaUpdate));
            using var scope = device.Enter();
            var stream = device.Stream(place.Stream);
            if (table is not EmaIlgpuTable own || own.Device != device)
            {
                own = new EmaIlgpuTable(device, place.Stream, work);
                table?.Dispose();
                table = own;
            }

            own.Update(stream, decays);
        }
        catch (Exception error) when (IlgpuContext.Translate(nameof(EmaUpdate), error) is { } translated)
        {
            throw translated;
        }
    }

    [RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
    private sealed class EmaIlgpuTable : IDisposable
    {
        private readonly Action<AcceleratorStream, KernelConfig, DeviceMemory, ArrayView<EmaPiece>, ArrayView<long>, ArrayView<EmaStep>>
            _update;

        private readonly Action<AcceleratorStream, KernelConfig, ArrayView<EmaStep>, int, EmaSteps> _setSteps;
        private readonly int _threads;
        private readonly IlgpuBuffer<EmaStep> _steps;
        private readonly IlgpuBuffer<EmaPiece>? _pieces; // these two are null where there are no elements
        private readonly IlgpuBuffer<long>? _averages;
        private double[]? _decays; // those that the device has, or will have when the stream gets there

        /// <summary>Checks the addresses, and sends them to the device.</summary>
        public EmaIlgpuTable(IlgpuDevice device, nint stream, in EmaWork work)
        {
            Device = device;
            var layout = EmaPieces.Of(work, device.WhyNotMemory);
            _threads = device.Threads(EmaKernel.Threads);
            _update = device.Kernel<
                Action<AcceleratorStream, KernelConfig, DeviceMemory, ArrayView<EmaPiece>, ArrayView<long>, ArrayView<EmaStep>>>(
                EmaKernel.EmaUpdate, EmaKernel.Threads);
            _setSteps = device.Kernel<Action<AcceleratorStream, KernelConfig, ArrayView<EmaStep>, int, EmaSteps>>(
                EmaKernel.SetSteps, EmaSteps.Count);
            try
            {
                _steps = new(device, work.AverageCount, nameof(EmaUpdate));
                if (layout.Pieces.Length == 0)
                    return;
                _pieces = new(device, layout.Pieces.Length, nameof(EmaUpdate));
                _averages = new(device, layout.Averages.Length, nameof(EmaUpdate));
                _pieces.CopyFrom(layout.Pieces, stream, nameof(EmaUpdate));
                _averages.CopyFrom(layout.Averages, stream, nameof(EmaUpdate));
            }
            catch
            {
                Dispose();
                throw;
            }
        }

        public IlgpuDevice Device { get; }

        public void Update(AcceleratorStream stream, ReadOnlySpan<double> decays)
        {
            if (!decays.SequenceEqual(_decays))
                SetDecays(stream, decays);
            if (_pieces is null)
                return;
            var warps = _threads / EmaKernel.Warp;
            var blocks = (_pieces.View.IntLength + warps - 1) / warps;
            _update(stream, new KernelConfig(blocks, _threads), Device.Memory, _pieces.View, _averages!.View, _steps.View);
            Device.AfterLaunch(stream);
        }

        public void Dispose()
        {
            _steps?.Dispose();
            _pieces?.Dispose();
            _averages?.Dispose();
        }

        private void SetDecays(AcceleratorStream stream, ReadOnlySpan<double> decays)
        {
            _decays = null;
            var steps = new EmaStep[(decays.Length + EmaSteps.Count - 1) / EmaSteps.Count * EmaSteps.Count];
            for (var i = 0; i < decays.Length; i++)
                steps[i] = EmaStep.Of(decays[i]);
            for (var i = 0; i < steps.Length; i += EmaSteps.Count)
            {
                var values = new EmaSteps { Step0 = steps[i], Step1 = steps[i + 1], Step2 = steps[i + 2], Step3 = steps[i + 3] };
                _setSteps(stream, new KernelConfig(1, EmaSteps.Count), _steps.View, i, values);
            }

            _decays = decays.ToArray();
        }
    }

    /// <summary>What the kernel is told of the tensors: pieces, and for each of them the addresses of its averages.</summary>
    internal readonly record struct EmaPieces(EmaPiece[] Pieces, long[] Averages)
    {
        /// <param name="work">The tensors.</param>
        /// <param name="whyNotMemory">What is wrong with an address and a number of bytes, if anything is.</param>
        /// <exception cref="ArgumentException">An address is no multiple of its element, or not the device's.</exception>
        public static EmaPieces Of(in EmaWork work, Func<nint, long, string?> whyNotMemory)
        {
            var pieces = new List<EmaPiece>();
            var averages = new List<long>();
            for (var tensor = 0; tensor < work.TensorCount; tensor++)
            {
                var count = work.Offset(tensor + 1) - work.Offset(tensor);
                if (count > 0)
                    Check(work, tensor, count, whyNotMemory);
                var head = Head(work, tensor);
                // The first piece takes the head on top, so that those after it begin on a boundary.
                for (long at = 0, elements; at < count; at += elements)
                {
                    var ownHead = at == 0 || head == EmaKernel.NoVectors ? head : (ushort)0;
                    elements = Math.Min(count - at, EmaKernel.PieceElements + (ownHead == EmaKernel.NoVectors ? 0 : ownHead));
                    if (ownHead >= elements)
                        ownHead = EmaKernel.NoVectors;
                    var type = work.SourceType(tensor);
                    pieces.Add(new EmaPiece(Address(work, tensor, 0) + at * type.Size(), (int)elements, ownHead, (ushort)type));
                    for (var column = 1; column <= work.AverageCount; column++)
                        averages.Add(Address(work, tensor, column) + at * sizeof(float));
                }
            }

            return new([.. pieces], [.. averages]);
        }

        private static void Check(in EmaWork work, int tensor, long count, Func<nint, long, string?> whyNotMemory)
        {
            for (var column = 0; column <= work.AverageCount; column++)
            {
                var size = Size(work, tensor, column);
                var address = Address(work, tensor, column);
                var name = column == 0 ? $"sources[{tensor}]" : $"averages[{column - 1}][{tensor}]";
                if (address % size != 0)
                    throw new ArgumentException($"{name}: 0x{address:x} is not aligned to its elements of {size} bytes");
                if (whyNotMemory(address, count * size) is { } reason)
                    throw new ArgumentException($"{name}: {reason}");
            }
        }

        /// <summary>The first element from which the source and all averages lie on boundaries of sixteen bytes.</summary>
        private static ushort Head(in EmaWork work, int tensor)
        {
            for (ushort head = 0; head < 16 / Size(work, tensor, 0); head++)
            {
                var aligned = true;
                for (var column = 0; column <= work.AverageCount && aligned; column++)
                    aligned = (Address(work, tensor, column) + head * Size(work, tensor, column)) % 16 == 0;
                if (aligned)
                    return head;
            }

            return EmaKernel.NoVectors;
        }

        private static int Size(in EmaWork work, int tensor, int column) => column == 0 ? work.SourceType(tensor).Size() : sizeof(float);

        // The source's, then the averages'.
        private static unsafe nint Address(in EmaWork work, int tensor, int column) =>
            work.Addresses[tensor * (work.AverageCount + 1L) + column];
    }
}
