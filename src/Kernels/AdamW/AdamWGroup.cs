using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>What belongs to one parameter of an <see cref="AdamWGroup"/>: contiguous tensors of one shape, all on one device.</summary>
/// <param name="Parameter">float32; or bfloat16 or float16, with a master.</param>
/// <param name="FirstMoment">m, float32.</param>
/// <param name="SecondMoment">v, float32, not negative.</param>
/// <param name="Master">The parameter in float32, where the parameter's own type is a 16-bit one; else null.</param>
/// <param name="Averages">
/// float32, at most four, as many for every parameter of the group that has any; null for none.
/// </param>
public readonly record struct AdamWTensors(
    TensorView Parameter, TensorView FirstMoment, TensorView SecondMoment, TensorView? Master = null,
    IReadOnlyList<TensorView>? Averages = null);

/// <summary>
/// A fixed list of parameters with their moments and averages, and their gradients of the moment. The list is checked when the group is
/// made; a step then is one call over all tensors.
/// </summary>
/// <remarks>
/// The group holds addresses: the views' owners keep the memory alive, and the caller promises that it does not move. Not thread-safe: one
/// call of a group at a time.
/// </remarks>
public sealed unsafe partial class AdamWGroup : IDisposable
{
    private readonly AdamWRow[] _rows;   // on the pinned heap, as the two below
    private readonly nint[] _averages;
    private readonly long[] _offsets;
    private readonly TensorView[] _parameters;
    private readonly List<object?> _owners = [];
    private readonly object?[] _gradientOwners;
    private AdamWCudaTable? _table;
    private GradientSummary? _lastNorm; // on the host; a device keeps its own
    private bool _disposed;

    private AdamWGroup(ReadOnlySpan<AdamWTensors> tensors)
    {
        foreach (var parameter in tensors)
            AverageCount = Math.Max(AverageCount, parameter.Averages?.Count ?? 0);
        Device = tensors.IsEmpty ? AuxDevice.Host : tensors[0].Parameter.Device;
        _rows = GC.AllocateArray<AdamWRow>(tensors.Length, pinned: true);
        _averages = GC.AllocateArray<nint>(tensors.Length * AverageCount, pinned: true);
        _offsets = GC.AllocateArray<long>(tensors.Length + 1, pinned: true);
        _parameters = new TensorView[tensors.Length];
        _gradientOwners = new object?[tensors.Length];

        var ranges = new List<MemoryRange>(tensors.Length * (3 + AverageCount));
        for (var i = 0; i < tensors.Length; i++)
            Add(i, tensors[i], ranges);
        MemoryRange.RequireDisjoint(ranges);
    }

    /// <summary>The number of parameters.</summary>
    public int Count => _rows.Length;

    /// <summary>The number of averages of each parameter that has any.</summary>
    public int AverageCount { get; }

    /// <summary>Elements of all parameters together.</summary>
    public long ElementCount => _offsets[Count];

    /// <summary>Where the tensors are.</summary>
    public AuxDevice Device { get; }

    /// <summary>Makes a group over memory of any framework. No parameter has a gradient at first.</summary>
    /// <param name="tensors">n parameters, each with what belongs to it.</param>
    /// <exception cref="ArgumentException">Dtypes, shapes, devices or counts do not fit, a tensor is not contiguous, or tensors overlap;
    /// the message names the tensor.</exception>
    public static AdamWGroup FromViews(params ReadOnlySpan<AdamWTensors> tensors) => new(tensors);

    /// <summary>Says where the gradients are, for the calls that follow.</summary>
    /// <param name="gradients">
    /// n gradients: float32, bfloat16 or float16, contiguous, of their parameters' shapes; default where a parameter has none.
    /// </param>
    /// <exception cref="ArgumentException">
    /// A gradient does not fit; the message names it. The gradients are those that they were.
    /// </exception>
    public void SetGradients(params ReadOnlySpan<TensorView> gradients)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (gradients.Length != Count)
            throw new ArgumentException($"gradients: {gradients.Length} for {Count} parameters", nameof(gradients));
        var ranges = WrittenRanges();
        for (var i = 0; i < Count; i++)
        {
            if (gradients[i].Address == 0)
                continue;
            var name = $"gradients[{i}]";
            Require(gradients[i].DType is DType.Float32 or DType.BFloat16 or DType.Float16, name, gradients[i],
                "is not float32, bfloat16 or float16");
            Check(gradients[i], name, _parameters[i]);
            ranges.Add(new(gradients[i].Address, (nint)gradients[i].ByteCount, name, IsWritten: false));
        }

        MemoryRange.RequireDisjoint(ranges);
        for (var i = 0; i < Count; i++)
        {
            SetGradient(i, gradients[i].Address, gradients[i].DType);
            _gradientOwners[i] = gradients[i].Owner;
        }
    }

    /// <summary>The 2-norm of all gradients together, by <see cref="GradientNorm"/>. Waits for a device to find it.</summary>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without.</param>
    /// <exception cref="ArgumentException">A stream of another device, or an address that is not memory of the group's device.</exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">The group, the stream, or memory of the group was disposed.</exception>
    public GradientSummary Norm(AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        backend = GradientNorm.Support.Resolve(backend, Device);
        var place = Place(stream);
        fixed (AdamWRow* rows = _rows)
        fixed (nint* averages = _averages)
        fixed (long* offsets = _offsets)
        {
            var work = new AdamWWork(rows, averages, offsets, Count, AverageCount);
            var summary = GradientNorm.Run(work, backend, place, ref _table);
            KeepAlive(stream);
            return summary;
        }
    }

    /// <summary>One step of every parameter that has a gradient, with its averages, by the same settings.</summary>
    /// <inheritdoc cref="Update(ReadOnlySpan{AdamWSettings}, ReadOnlySpan{int}, double, ReadOnlySpan{double}, AuxBackend, CudaStream)"/>
    public void Update(
        in AdamWSettings settings, double gradientScale = 1, ReadOnlySpan<double> decays = default, AuxBackend backend = AuxBackend.Auto,
        CudaStream? stream = null) =>
        Update([settings], [], gradientScale, decays, backend, stream);

    /// <summary>One step of every parameter that has a gradient, with its averages. What has no gradient stays as it is.</summary>
    /// <param name="settings">Hyper-parameters with the number of the step, one for each kind of parameter.</param>
    /// <param name="settingsOf">For each parameter, which of <paramref name="settings"/> it follows; empty for the first of them.</param>
    /// <param name="gradientScale">What gradients are multiplied by: the inverse of a loss scale, a clip factor, or both.</param>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentException">
    /// Another number of decays than of averages, or of <paramref name="settingsOf"/> than of parameters; a stream of another device, or an
    /// address that is not memory of the group's device. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A setting, an index, a decay or the scale is out of its range. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    /// <exception cref="CudaException">The driver failed. Where the launch itself failed, nothing was written.</exception>
    /// <exception cref="ObjectDisposedException">The group, the stream, or memory of the group was disposed.</exception>
    public void Update(
        ReadOnlySpan<AdamWSettings> settings, ReadOnlySpan<int> settingsOf, double gradientScale = 1, ReadOnlySpan<double> decays = default,
        AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        (backend, var place) = Prepare(settings, settingsOf, gradientScale, decays, backend, stream);
        Run(settings, gradientScale, decays, backend, place, clipped: false);
        KeepAlive(stream);
    }

    /// <summary>
    /// <see cref="Norm"/>, then <see cref="Update(ReadOnlySpan{AdamWSettings}, ReadOnlySpan{int}, double, ReadOnlySpan{double}, AuxBackend,
    /// CudaStream)"/> with gradients scaled down to a greatest norm. On a device the host waits for nothing, so a CUDA graph can capture
    /// the whole step; it replays with what <see cref="SetForReplay"/> set, as long as the tensors stay the same.
    /// </summary>
    /// <param name="greatest">
    /// The norm, after <paramref name="gradientScale"/>, beyond which gradients are scaled down; null for none.
    /// </param>
    /// <param name="skipNonFinite">Whether to leave the step out where a gradient is NaN or infinite; else it is taken, unclipped.</param>
    /// <param name="settings">Hyper-parameters with the number of the step, one for each kind of parameter.</param>
    /// <param name="settingsOf">For each parameter, which of <paramref name="settings"/> it follows; empty for the first of them.</param>
    /// <param name="gradientScale">What gradients are multiplied by before: the inverse of a loss scale.</param>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <param name="stream">Where work on a device is queued; the default stream without. Work on the device is asynchronous.</param>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A setting, an index, a decay, the scale or the greatest norm is out of its range. Nothing was written.
    /// </exception>
    /// <inheritdoc cref="Update(ReadOnlySpan{AdamWSettings}, ReadOnlySpan{int}, double, ReadOnlySpan{double}, AuxBackend, CudaStream)"
    /// path="/exception"/>
    public void UpdateClipped(
        double? greatest, bool skipNonFinite, ReadOnlySpan<AdamWSettings> settings, ReadOnlySpan<int> settingsOf = default,
        double gradientScale = 1, ReadOnlySpan<double> decays = default, AuxBackend backend = AuxBackend.Auto, CudaStream? stream = null)
    {
        if (greatest is { } norm && !(norm > 0 && double.IsFinite(norm)))
            throw new ArgumentOutOfRangeException(nameof(greatest), greatest, "A greatest norm is finite and above 0.");
        (backend, var place) = Prepare(settings, settingsOf, gradientScale, decays, backend, stream);
        if (backend == AuxBackend.Cuda)
        {
            TakeNorm(gradientScale, greatest, skipNonFinite, place);
            Run(settings, gradientScale, decays, backend, place, clipped: true);
        }
        else
        {
            _lastNorm = Norm(backend);
            if (_lastNorm.Value.IsFinite || !skipNonFinite)
            {
                var factor = GradientNorm.ClipFactor(_lastNorm.Value, Math.Abs(gradientScale), greatest);
                Run(settings, gradientScale * factor, decays, backend, place, clipped: false);
            }
        }

        KeepAlive(stream);
    }

    /// <summary>
    /// Gives a device the settings, scale and decays with which a CUDA graph that captured a step is to be replayed on the stream next.
    /// </summary>
    /// <param name="settings">As many as at the capture.</param>
    /// <param name="gradientScale">What gradients are multiplied by.</param>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <param name="stream">The stream of the replay; the default stream without.</param>
    /// <exception cref="InvalidOperationException">No step ran on a device before.</exception>
    /// <inheritdoc cref="Update(ReadOnlySpan{AdamWSettings}, ReadOnlySpan{int}, double, ReadOnlySpan{double}, AuxBackend, CudaStream)"
    /// path="/exception"/>
    public void SetForReplay(
        ReadOnlySpan<AdamWSettings> settings, double gradientScale = 1, ReadOnlySpan<double> decays = default, CudaStream? stream = null)
    {
        CheckArguments(settings, gradientScale, decays);
        if (_table is null)
            throw new InvalidOperationException("No step of this group ran on a device before.");
        _table.Set(settings, gradientScale, decays, Place(stream).Stream);
        KeepAlive(stream);
    }

    /// <summary>What the last <see cref="UpdateClipped"/> found. Waits for a device to come to it.</summary>
    /// <param name="stream">The stream of that call.</param>
    /// <exception cref="InvalidOperationException">There was none.</exception>
    /// <exception cref="CudaException">The driver failed, or a launch before it did.</exception>
    public GradientSummary LastNorm(CudaStream? stream = null)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_lastNorm is { } known)
            return known;
        return _table is { HasNorm: true }
            ? _table.ReadNorm(Place(stream).Stream)
            : throw new InvalidOperationException("There was no clipped update before.");
    }

    /// <summary>Frees what the group keeps on a device.</summary>
    public void Dispose()
    {
        _disposed = true;
        _table?.Dispose();
    }

    /// <summary>The first parameter whose gradient is not finite throughout; -1 if there is none.</summary>
    internal int FirstNonFinite(AuxBackend backend)
    {
        backend = GradientNorm.Support.Resolve(backend, Device);
        var offsets = stackalloc long[2];
        for (var i = 0; i < Count; i++)
        {
            offsets[1] = _offsets[i + 1] - _offsets[i];
            AdamWCudaTable? table = null;
            fixed (AdamWRow* row = &_rows[i])
            {
                var work = new AdamWWork(row, null, offsets, tensorCount: 1, averageCount: 0);
                var isFinite = GradientNorm.Run(work, backend, Place(null), ref table).IsFinite;
                table?.Dispose();
                if (!isFinite)
                    return i;
            }
        }

        return -1;
    }

    /// <summary>The parameter's address as it was checked. A holder of movable tensors compares it before a step.</summary>
    internal nint ParameterAddress(int tensor) => _rows[tensor].Parameter;

    /// <summary>
    /// Says where one gradient is, unchecked: of the parameter's element count, contiguous, on its device. 0 for none. The caller keeps the
    /// memory alive.
    /// </summary>
    internal void SetGradient(int tensor, nint address, DType dtype)
    {
        ref var row = ref _rows[tensor];
        if (row.Gradient == address && row.GradientType == dtype)
            return;
        row.Gradient = address;
        row.GradientType = dtype;
        Forget();
    }

    // What the device knows of the tensors holds no longer.
    private void Forget()
    {
        if (_table is not null)
            _table.HasTensors = false;
    }

    private void TakeNorm(double gradientScale, double? greatest, bool skip, AdamWPlace place)
    {
        fixed (AdamWRow* rows = _rows)
        fixed (nint* averages = _averages)
        fixed (long* offsets = _offsets)
        {
            _table ??= new AdamWCudaTable(Device.Index, AverageCount);
            _table.Norm(new AdamWWork(rows, averages, offsets, Count, AverageCount), Math.Abs(gradientScale), greatest, skip, place.Stream);
            GradientNorm.Support.Count(AuxBackend.Cuda);
        }
    }

    private void Run(
        ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays, AuxBackend backend, AdamWPlace place,
        bool clipped)
    {
        fixed (AdamWRow* rows = _rows)
        fixed (nint* averages = _averages)
        fixed (long* offsets = _offsets)
        {
            var work = new AdamWWork(rows, averages, offsets, Count, AverageCount);
            AdamWUpdate.Run(work, settings, gradientScale, decays, backend, place, clipped, ref _table);
        }
    }

    private AdamWPlace Place(CudaStream? stream)
    {
        var place = new AdamWPlace(Device, CudaStream.HandleOn(stream, Device, nameof(stream)));
        if (Device.Kind == AuxDeviceKind.Host)
            return place;
        foreach (var owner in _owners)
            RequireAlive(owner);
        foreach (var owner in _gradientOwners)
            RequireAlive(owner);
        return place;

        static void RequireAlive(object? owner) => ObjectDisposedException.ThrowIf(owner is IDeviceMemory { IsDisposed: true }, owner!);
    }

    private void KeepAlive(CudaStream? stream)
    {
        GC.KeepAlive(_owners);
        GC.KeepAlive(_gradientOwners);
        GC.KeepAlive(stream);
    }
}
