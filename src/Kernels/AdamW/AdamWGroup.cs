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
public sealed unsafe class AdamWGroup : IDisposable
{
    private readonly AdamWRow[] _rows;   // on the pinned heap, as the two below
    private readonly nint[] _averages;
    private readonly long[] _offsets;
    private readonly TensorView[] _parameters;
    private readonly List<object?> _owners = [];
    private readonly object?[] _gradientOwners;
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
    /// <exception cref="ArgumentException">Dtypes, shapes, devices or counts do not fit, a tensor is not contiguous, or tensors overlap; the
    /// message names the tensor.</exception>
    public static AdamWGroup FromViews(params ReadOnlySpan<AdamWTensors> tensors) => new(tensors);

    /// <summary>Says where the gradients are, for the calls that follow.</summary>
    /// <param name="gradients">
    /// n gradients: float32, bfloat16 or float16, contiguous, of their parameters' shapes; default where a parameter has none.
    /// </param>
    /// <exception cref="ArgumentException">A gradient does not fit; the message names it. The gradients are those that they were.</exception>
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

    /// <summary>The 2-norm of all gradients together, by <see cref="GradientNorm"/>.</summary>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    public GradientSummary Norm(AuxBackend backend = AuxBackend.Auto)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        backend = GradientNorm.Support.Resolve(backend, Device);
        fixed (AdamWRow* rows = _rows)
        fixed (nint* averages = _averages)
        fixed (long* offsets = _offsets)
        {
            var summary = GradientNorm.Run(new AdamWWork(rows, averages, offsets, Count, AverageCount), backend);
            GC.KeepAlive(_gradientOwners);
            return summary;
        }
    }

    /// <summary>One step of every parameter that has a gradient, with its averages, by the same settings.</summary>
    /// <inheritdoc cref="Update(ReadOnlySpan{AdamWSettings}, ReadOnlySpan{int}, double, ReadOnlySpan{double}, AuxBackend)"/>
    public void Update(
        in AdamWSettings settings, double gradientScale = 1, ReadOnlySpan<double> decays = default, AuxBackend backend = AuxBackend.Auto) =>
        Update([settings], [], gradientScale, decays, backend);

    /// <summary>One step of every parameter that has a gradient, with its averages. What has no gradient stays as it is.</summary>
    /// <param name="settings">Hyper-parameters with the number of the step, one for each kind of parameter.</param>
    /// <param name="settingsOf">For each parameter, which of <paramref name="settings"/> it follows; empty for the first of them.</param>
    /// <param name="gradientScale">What gradients are multiplied by: the inverse of a loss scale, a clip factor, or both.</param>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <param name="backend">Where to run; Auto takes what fits the memory.</param>
    /// <exception cref="ArgumentException">
    /// Another number of decays than of averages, or of <paramref name="settingsOf"/> than of parameters. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A setting, an index, a decay or the scale is out of its range. Nothing was written.
    /// </exception>
    /// <exception cref="BackendUnavailableException">The named backend does not run here, or not on this memory.</exception>
    public void Update(
        ReadOnlySpan<AdamWSettings> settings, ReadOnlySpan<int> settingsOf, double gradientScale = 1, ReadOnlySpan<double> decays = default,
        AuxBackend backend = AuxBackend.Auto)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        for (var i = 0; i < settings.Length; i++)
            settings[i].Check($"settings[{i}]");
        AdamWUpdate.CheckScale(gradientScale);
        if (decays.Length != AverageCount)
            throw new ArgumentException($"decays: {decays.Length} for {AverageCount} averages", nameof(decays));
        for (var i = 0; i < decays.Length; i++)
            EmaUpdate.CheckDecay(decays[i], $"decays[{i}]");
        backend = AdamWUpdate.Support.Resolve(backend, Device);
        Assign(settings.Length, settingsOf);

        fixed (AdamWRow* rows = _rows)
        fixed (nint* averages = _averages)
        fixed (long* offsets = _offsets)
        {
            var work = new AdamWWork(rows, averages, offsets, Count, AverageCount);
            AdamWUpdate.Run(work, settings, gradientScale, decays, backend);
        }

        GC.KeepAlive(_owners);
        GC.KeepAlive(_gradientOwners);
    }

    /// <summary>Frees what the group keeps on a device.</summary>
    public void Dispose() => _disposed = true;

    /// <summary>The first parameter whose gradient is not finite throughout; -1 if there is none.</summary>
    internal int FirstNonFinite(AuxBackend backend)
    {
        backend = GradientNorm.Support.Resolve(backend, Device);
        var offsets = stackalloc long[2];
        for (var i = 0; i < Count; i++)
        {
            offsets[1] = _offsets[i + 1] - _offsets[i];
            fixed (AdamWRow* row = &_rows[i])
            {
                if (!GradientNorm.Run(new AdamWWork(row, null, offsets, tensorCount: 1, averageCount: 0), backend).IsFinite)
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
        row.Gradient = address;
        row.GradientType = dtype;
    }

    private void Assign(int settings, ReadOnlySpan<int> settingsOf)
    {
        if (settings == 0)
            throw new ArgumentException("settings: at least one", nameof(settings));
        if (!settingsOf.IsEmpty && settingsOf.Length != Count)
            throw new ArgumentException($"settingsOf: {settingsOf.Length} for {Count} parameters", nameof(settingsOf));
        for (var i = 0; i < settingsOf.Length; i++)
        {
            if ((uint)settingsOf[i] >= (uint)settings)
                throw new ArgumentOutOfRangeException($"settingsOf[{i}]", settingsOf[i], $"There are {settings} settings.");
        }

        for (var i = 0; i < Count; i++)
            _rows[i].Settings = settingsOf.IsEmpty ? 0 : settingsOf[i];
    }

    private void Add(int i, in AdamWTensors tensors, List<MemoryRange> ranges)
    {
        var (parameter, name) = (tensors.Parameter, $"parameters[{i}]");
        Require(parameter.DType is DType.Float32 or DType.BFloat16 or DType.Float16, name, parameter, "is not float32, bfloat16 or float16");
        Require(parameter.DType == DType.Float32 == tensors.Master is null, name, parameter,
            tensors.Master is null ? "needs a float32 master" : "is its own master; pass none");
        Require(tensors.Averages is null || tensors.Averages.Count == AverageCount, name, parameter,
            $"has {tensors.Averages?.Count} averages, another parameter has {AverageCount}");
        Require(AverageCount <= AdamWUpdate.MostAverages, name, parameter,
            $"has {AverageCount} averages; a pass carries {AdamWUpdate.MostAverages} at most");
        Check(parameter, name, parameter);

        _parameters[i] = parameter;
        _offsets[i + 1] = checked(_offsets[i] + parameter.ElementCount);
        ref var row = ref _rows[i];
        row.ParameterType = parameter.DType;
        row.Parameter = Hold(parameter, name);
        row.FirstMoment = HoldFloat32(tensors.FirstMoment, $"firstMoments[{i}]");
        row.SecondMoment = HoldFloat32(tensors.SecondMoment, $"secondMoments[{i}]");
        row.Master = tensors.Master is { } master ? HoldFloat32(master, $"masters[{i}]") : 0;
        for (var k = 0; k < AverageCount && tensors.Averages is not null; k++)
            _averages[i * AverageCount + k] = HoldFloat32(tensors.Averages[k], $"averages[{k}][{i}]");

        nint HoldFloat32(in TensorView view, string what)
        {
            Require(view.DType == DType.Float32, what, view, "is not float32");
            Check(view, what, parameter);
            return Hold(view, what);
        }

        nint Hold(in TensorView view, string what)
        {
            ranges.Add(new(view.Address, (nint)view.ByteCount, what, IsWritten: true));
            _owners.Add(view.Owner);
            return view.Address;
        }
    }

    private List<MemoryRange> WrittenRanges()
    {
        var ranges = new List<MemoryRange>();
        for (var i = 0; i < Count; i++)
        {
            var bytes = (nint)_parameters[i].ElementCount * sizeof(float);
            ranges.Add(new(_rows[i].Parameter, (nint)_parameters[i].ByteCount, $"parameters[{i}]", IsWritten: true));
            ranges.Add(new(_rows[i].FirstMoment, bytes, $"firstMoments[{i}]", IsWritten: true));
            ranges.Add(new(_rows[i].SecondMoment, bytes, $"secondMoments[{i}]", IsWritten: true));
            if (_rows[i].Master != 0)
                ranges.Add(new(_rows[i].Master, bytes, $"masters[{i}]", IsWritten: true));
            for (var k = 0; k < AverageCount && _averages[i * AverageCount] != 0; k++)
                ranges.Add(new(_averages[i * AverageCount + k], bytes, $"averages[{k}][{i}]", IsWritten: true));
        }

        return ranges;
    }

    private void Check(in TensorView view, string name, in TensorView parameter)
    {
        Require(view.Shape.SequenceEqual(parameter.Shape), name, view, $"is not of its parameter's shape {TensorView.Format(parameter.Shape)}");
        Require(view.IsContiguous, name, view, "is not contiguous");
        Require(view.Device == Device, name, view, $"is not on {Device}, where parameters[0] is");
    }

    private static void Require(bool holds, string name, in TensorView view, string problem)
    {
        if (!holds)
            throw new ArgumentException($"{name}: {view} {problem}", name);
    }
}
