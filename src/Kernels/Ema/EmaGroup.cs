using System.Buffers;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// A fixed list of source tensors and, for each, one or more averages of the same shape, in float32 or, rounded at each update, bfloat16.
/// Everything is checked when the group is made; an update then is one call over all tensors, in which several averages of a source
/// advance together.
/// </summary>
/// <remarks>
/// The group holds addresses. Memory given through <see cref="Pin{T}"/> is pinned until the group is disposed; with <see cref="FromViews"/>
/// the views' owners keep it alive, and the caller promises that it does not move. Not thread-safe: one update of a group at a time.
/// </remarks>
public sealed unsafe class EmaGroup : IDisposable
{
    private readonly nint[] _addresses;  // on the pinned heap, as the three below: n rows of a source and its averages
    private readonly long[] _offsets;
    private readonly DType[] _sourceTypes;
    private readonly DType[] _averageTypes; // one an average
    private readonly object?[] _owners;
    private readonly IDeviceMemory[] _deviceMemory; // the owners that can tell whether they are alive
    private MemoryHandle[] _pins = [];
    private IDisposable? _table;
    private bool _disposed;

    private EmaGroup(ReadOnlySpan<TensorView> sources, ReadOnlySpan<TensorView[]> averages)
    {
        Check(sources, averages);
        var width = averages.Length + 1;
        Count = sources.Length;
        AverageCount = averages.Length;
        Device = sources.IsEmpty ? AuxDevice.Host : sources[0].Device;
        _addresses = GC.AllocateUninitializedArray<nint>(Count * width, pinned: true);
        _offsets = GC.AllocateUninitializedArray<long>(Count + 1, pinned: true);
        _sourceTypes = GC.AllocateUninitializedArray<DType>(Count, pinned: true);
        _averageTypes = GC.AllocateUninitializedArray<DType>(AverageCount, pinned: true);
        for (var k = 0; k < AverageCount; k++)
            _averageTypes[k] = averages[k].Length == 0 ? DType.Float32 : averages[k][0].DType;
        _owners = new object?[Count * width];
        _offsets[0] = 0;
        for (var i = 0; i < Count; i++)
        {
            _sourceTypes[i] = sources[i].DType;
            _offsets[i + 1] = checked(_offsets[i] + sources[i].ElementCount);
            for (var column = 0; column < width; column++)
            {
                var view = column == 0 ? sources[i] : averages[column - 1][i];
                _addresses[i * width + column] = view.Address;
                _owners[i * width + column] = view.Owner;
            }
        }

        _deviceMemory = [.. _owners.OfType<IDeviceMemory>().Distinct()];
    }

    /// <summary>The number of source tensors.</summary>
    public int Count { get; }

    /// <summary>The number of averages of each source.</summary>
    public int AverageCount { get; }

    /// <summary>Elements of all sources together.</summary>
    public long ElementCount => _offsets[Count];

    /// <summary>Where the tensors are.</summary>
    public AuxDevice Device { get; }

    /// <summary>Makes a group over managed memory, which stays pinned until the group is disposed.</summary>
    /// <typeparam name="T">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <param name="sources">n blocks of memory, read by each update.</param>
    /// <param name="averages">One list for each average: n blocks, the i-th as long as the i-th source.</param>
    /// <exception cref="ArgumentException">Counts or lengths differ, blocks overlap or repeat, or <typeparamref name="T"/> is another type;
    /// the message names the block.</exception>
    public static EmaGroup Pin<T>(IReadOnlyList<ReadOnlyMemory<T>> sources, params IReadOnlyList<Memory<float>>[] averages)
        where T : unmanaged => Pin<T, float>(sources, averages);

    /// <summary>The same with averages in float32 or bfloat16.</summary>
    /// <typeparam name="TSource">float, <see cref="BFloat16"/> or <see cref="Half"/>.</typeparam>
    /// <typeparam name="TAverage">float or <see cref="BFloat16"/>.</typeparam>
    /// <inheritdoc cref="Pin{T}(IReadOnlyList{ReadOnlyMemory{T}}, IReadOnlyList{Memory{float}}[])"/>
    public static EmaGroup Pin<TSource, TAverage>(
        IReadOnlyList<ReadOnlyMemory<TSource>> sources, params IReadOnlyList<Memory<TAverage>>[] averages)
        where TSource : unmanaged
        where TAverage : unmanaged
    {
        ArgumentNullException.ThrowIfNull(sources);
        ArgumentNullException.ThrowIfNull(averages);
        var pins = new List<MemoryHandle>();
        try
        {
            TensorView View<TElement>(ReadOnlyMemory<TElement> memory) where TElement : unmanaged
            {
                var pin = memory.Pin();
                pins.Add(pin);
                return TensorView.FromPointer(pin.Pointer, DTypes.Of<TElement>(), [memory.Length]);
            }

            TensorView[] sourceViews = [.. sources.Select(View)];
            TensorView[][] averageViews =
                [.. averages.Select(list => list?.Select(memory => View((ReadOnlyMemory<TAverage>)memory)).ToArray()
                    ?? throw new ArgumentNullException(nameof(averages)))];
            return new EmaGroup(sourceViews, averageViews) { _pins = [.. pins] };
        }
        catch
        {
            pins.ForEach(pin => pin.Dispose());
            throw;
        }
    }

    /// <summary>Makes a group over memory of any framework.</summary>
    /// <param name="sources">n tensors: float32, bfloat16 or float16, contiguous, all on one device.</param>
    /// <param name="averages">
    /// One list for each average: n tensors of the i-th source's shape, all of the list float32 or all bfloat16.
    /// </param>
    /// <exception cref="ArgumentException">Counts, shapes, dtypes or devices do not fit, a tensor is not contiguous, or tensors overlap;
    /// the message names the tensor.</exception>
    public static EmaGroup FromViews(ReadOnlySpan<TensorView> sources, params ReadOnlySpan<TensorView[]> averages) =>
        new(sources, averages);

    /// <summary>average ← β · average + (1 − β) · source for every tensor, with the arithmetic of <see cref="EmaUpdate"/>.</summary>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">
    /// Another number of decays than of averages, a stream of another device, or an address that is not memory of the group's device.
    /// Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">A decay is NaN or outside [0, 1]. Nothing was written.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed. Where the launch itself failed, nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">The group, the stream, or memory of the group was disposed.</exception>
    public void Update(ReadOnlySpan<double> decays, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null) =>
        Update(decays, default, backend, stream);

    /// <summary>The same for averages of which some are bfloat16.</summary>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <param name="rounding">How to round averages in bfloat16; those in float32 need none.</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">
    /// Another number of decays than of averages, averages in bfloat16 and no rounding, a stream of another device, or an address that is
    /// not memory of the group's device. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A decay is NaN or outside [0, 1], or above 0.99 for an average in bfloat16 that is rounded to the nearest. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed. Where the launch itself failed, nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">The group, the stream, or memory of the group was disposed.</exception>
    public void Update(
        ReadOnlySpan<double> decays, EmaRounding rounding, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (decays.Length != AverageCount)
            throw new ArgumentException($"decays: {decays.Length} for {AverageCount} averages", nameof(decays));
        for (var i = 0; i < decays.Length; i++)
            EmaUpdate.CheckDecay(decays[i], $"decays[{i}]");
        for (var k = 0; k < decays.Length; k++)
        {
            if (_averageTypes[k] == DType.BFloat16)
                EmaRounding.Require(rounding, decays[k], $"decays[{k}]", $"averages[{k}]");
        }

        backend = EmaUpdate.Support.Resolve(backend, Device);
        var place = new EmaPlace(Device, CudaStream.HandleOn(stream, Device, nameof(stream)));
        foreach (var memory in _deviceMemory)
            ObjectDisposedException.ThrowIf(memory.IsDisposed, memory);

        fixed (nint* addresses = _addresses)
        fixed (long* offsets = _offsets)
        fixed (DType* types = _sourceTypes, averageTypes = _averageTypes)
        {
            var work = new EmaWork(addresses, offsets, types, Count, AverageCount, averageTypes, rounding);
            EmaUpdate.Run(work, decays, backend, place, ref _table);
        }

        GC.KeepAlive(_owners);
        GC.KeepAlive(stream);
    }

    /// <inheritdoc cref="Update(ReadOnlySpan{double}, AuxBackend, CudaStream)"/>
    /// <param name="decay">β of the only average, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without.</param>
    public void Update(double decay, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null) => Update([decay], backend, stream);

    /// <summary>Unpins the memory that <see cref="Pin{T}"/> pinned, and frees what the group keeps on a device.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _table?.Dispose();
        foreach (var pin in _pins)
            pin.Dispose();
    }

    /// <summary>
    /// The addresses as checked, a row a tensor: source, averages. A holder of movable tensors compares them before it updates.
    /// </summary>
    internal ReadOnlySpan<nint> Addresses => _addresses;

    private static void Check(ReadOnlySpan<TensorView> sources, ReadOnlySpan<TensorView[]> averages)
    {
        if (averages.IsEmpty)
            throw new ArgumentException("averages: a group needs at least one list of averages", nameof(averages));
        var ranges = new List<MemoryRange>(sources.Length * (averages.Length + 1));
        for (var i = 0; i < sources.Length; i++)
        {
            var name = $"sources[{i}]";
            if (sources[i].DType is not (DType.Float32 or DType.BFloat16 or DType.Float16))
                throw new ArgumentException($"{name}: {sources[i]} cannot be averaged; float32, bfloat16 or float16 can", nameof(sources));
            Check(sources[i], name, sources[0].Device, nameof(sources));
            ranges.Add(new(sources[i], i, -1));
        }

        for (var k = 0; k < averages.Length; k++)
        {
            ArgumentNullException.ThrowIfNull(averages[k], $"averages[{k}]");
            if (averages[k].Length != sources.Length)
                throw new ArgumentException($"averages[{k}]: {averages[k].Length} tensors for {sources.Length} sources", nameof(averages));
            for (var i = 0; i < sources.Length; i++)
            {
                var (average, name) = (averages[k][i], $"averages[{k}][{i}]");
                if (average.DType is not (DType.Float32 or DType.BFloat16))
                    throw new ArgumentException(
                        $"{name}: {average}; averages are float32, whatever the source, or bfloat16", nameof(averages));
                if (average.DType != averages[k][0].DType)
                    throw new ArgumentException(
                        $"{name}: {average}, but averages[{k}][0] is {averages[k][0].DType.Name()}; one list has one type",
                        nameof(averages));
                if (average.DType == DType.BFloat16 && average.ElementCount > EmaRounding.MostElements)
                    throw new ArgumentException($"{name}: {average}; bfloat16 averages have at most 2^35 elements", nameof(averages));
                if (!average.Shape.SequenceEqual(sources[i].Shape))
                    throw new ArgumentException(
                        $"sources[{i}]: shape {TensorView.Format(sources[i].Shape)} does not match "
                        + $"{name} {TensorView.Format(average.Shape)}",
                        nameof(averages));
                Check(average, name, sources[0].Device, nameof(averages));
                ranges.Add(new(average, i, k));
            }
        }

        MemoryRange.RequireDisjointAverages(ranges, nameof(averages));
    }

    private static void Check(in TensorView view, string name, AuxDevice device, string parameter)
    {
        if (!view.IsContiguous)
            throw new ArgumentException($"{name}: {view} is not contiguous; pass a contiguous tensor", parameter);
        if (view.Device != device)
            throw new ArgumentException($"{name}: {view}, but sources[0] is on {device}; a group lives on one device", parameter);
    }

    /// <summary>The bytes of one tensor of the group.</summary>
    private readonly record struct MemoryRange(nint Begin, nint End, int Tensor, int Average)
    {
        public MemoryRange(in TensorView view, int tensor, int average)
            : this(view.Address, view.Address + (nint)view.ByteCount, tensor, average)
        {
        }

        private bool IsSource => Average < 0;

        private string Name => IsSource ? $"sources[{Tensor}]" : $"averages[{Average}][{Tensor}]";

        /// <summary>
        /// Sources may share memory (tied weights); an average shares its memory with nothing. One sweep over the sorted ranges.
        /// </summary>
        public static void RequireDisjointAverages(List<MemoryRange> ranges, string parameter)
        {
            ranges.RemoveAll(range => range.Begin == range.End);
            ranges.Sort((left, right) => left.Begin.CompareTo(right.Begin));
            MemoryRange? source = null, average = null; // of each kind, the one that reaches furthest so far
            foreach (var range in ranges)
            {
                var other = average is { } a && a.End > range.Begin ? average
                    : !range.IsSource && source is { } s && s.End > range.Begin ? source
                    : null;
                if (other is { } met)
                    throw new ArgumentException(
                        $"{range.Name} overlaps {met.Name} in memory; every average needs memory of its own", parameter);
                if (range.IsSource)
                    source = source is { } s2 && s2.End > range.End ? s2 : range;
                else
                    average = range;
            }
        }
    }
}
