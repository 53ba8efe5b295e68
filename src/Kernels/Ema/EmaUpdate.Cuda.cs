using AuxCore.Interop;

namespace AuxCore.Kernels;

public static partial class EmaUpdate
{
    /// <summary>
    /// One launch over all tensors (<c>ema_update.cu</c> and <c>ema_update_bfloat16.cu</c> in <c>native/cuda/ema</c>). The table of where
    /// they are stays on the device from one call to the next; decays and rounding are written there too, so that a captured graph replays
    /// with those of the day.
    /// </summary>
    /// <param name="work">Addresses of device memory.</param>
    /// <param name="decays">One an average.</param>
    /// <param name="place">The device and the stream.</param>
    /// <param name="table">Null at first; the caller keeps it with the addresses that it is for, and disposes it.</param>
    private static void RunCuda(in EmaWork work, ReadOnlySpan<double> decays, EmaPlace place, ref IDisposable? table)
    {
        if (table is not EmaCudaTable cuda)
        {
            table?.Dispose();
            table = cuda = new EmaCudaTable(place.Device.Index, work.AverageCount);
        }

        cuda.Update(work, decays, place.Stream);
    }

    private sealed unsafe class EmaCudaTable : IDisposable
    {
        private readonly EmaTableHandle _handle;
        private bool _hasTensors;

        public EmaCudaTable(int device, int averageCount) =>
            NativeStatus.Check(
                Native.EmaCreate(CudaContext.Of(device, nameof(EmaUpdate)).Handle, averageCount, out _handle), nameof(EmaUpdate));

        public void Update(in EmaWork work, ReadOnlySpan<double> decays, nint stream)
        {
            fixed (double* first = decays)
                NativeStatus.Check(Native.EmaSetDecays(_handle, stream, first, decays.Length), nameof(EmaUpdate));
            if (work.HasBFloat16Averages)
            {
                var rounding = work.Rounding;
                NativeStatus.Check(
                    Native.EmaSetRounding(
                        _handle, stream, rounding.IsStochastic ? 1 : 0, rounding.Seed, rounding.Step, rounding.FirstTensor),
                    nameof(EmaUpdate));
            }

            if (_hasTensors)
                NativeStatus.Check(Native.EmaUpdate(_handle, stream, null), nameof(EmaUpdate));
            else
                UpdateFirst(work, stream);
        }

        private void UpdateFirst(in EmaWork work, nint stream)
        {
            var counts = new long[work.TensorCount];
            for (var i = 0; i < counts.Length; i++)
                counts[i] = work.Offset(i + 1) - work.Offset(i);
            fixed (long* elementCounts = counts)
            {
                var tensors = new Native.EmaTensors
                {
                    StructSize = (uint)sizeof(Native.EmaTensors),
                    AverageType = work.HasBFloat16Averages ? DType.BFloat16 : DType.Float32,
                    TensorCount = work.TensorCount,
                    Addresses = work.Addresses,
                    ElementCounts = elementCounts,
                    SourceTypes = work.SourceTypes,
                };
                NativeStatus.Check(Native.EmaUpdate(_handle, stream, &tensors), nameof(EmaUpdate));
            }

            _hasTensors = true;
        }

        public void Dispose() => _handle.Dispose();
    }
}
