using System.Runtime.CompilerServices;
using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Moving averages over arbitrary pairs of tensors: average ← β · average + (1 − β) · source for a whole list in one call, with one or more
/// averages of each source. <see cref="EmaModel"/> does this for the parameters of a module.
/// </summary>
/// <remarks>
/// <para>Tensors are checked when the mixer is made. Each update then compares address, number of elements and contiguity with what it
/// knows, and checks everything anew where one has changed; <see cref="Freeze"/> leaves that out. Tensors that the caller made stay the
/// caller's to dispose. Not thread-safe.</para>
/// <para>Updates write memory directly and do not raise autograd's version counters: do not update between the forward and the backward
/// pass of a graph that saved an average.</para>
/// </remarks>
public sealed class EmaMixer : IDisposable
{
    private const long AlignmentBytes = 64; // averages of our own begin on cache lines of their own

    private readonly Tensor[][] _averages;
    private readonly Tensor[] _storage;      // flat, one an average; empty where the averages are the caller's
    private readonly bool _staged;           // whether the averages follow copies of the sources on the host
    private Tensor[] _sources;
    private Tensor[] _staging = [];          // those copies
    private nint[] _sourceAddresses = [];
    private long[] _counts = [];
    private EmaGroup _group;
    private string? _leafRequiringGrad;
    private bool _disposed;

    /// <summary>One average for each source.</summary>
    /// <param name="pairs">
    /// Source (float32, bfloat16 or float16) and its average (all float32 or all bfloat16), of one shape, contiguous, on one device.
    /// </param>
    /// <exception cref="ArgumentException">A pair does not fit, tensors overlap or repeat; the message names the tensor.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the tensors' device.</exception>
    public EmaMixer(IReadOnlyList<(Tensor Source, Tensor Average)> pairs)
        : this([.. Required(pairs).Select(pair => pair.Source)], [.. pairs.Select(pair => pair.Average)])
    {
    }

    /// <summary>Several averages of each source, each with a decay of its own.</summary>
    /// <param name="sources">n tensors: float32, bfloat16 or float16, contiguous, on one device.</param>
    /// <param name="averages">
    /// One list for each average: n tensors of the i-th source's shape, all of the list float32 or all bfloat16.
    /// </param>
    /// <inheritdoc cref="EmaMixer(IReadOnlyList{ValueTuple{Tensor, Tensor}})" path="/exception"/>
    public EmaMixer(IReadOnlyList<Tensor> sources, params IReadOnlyList<Tensor>[] averages)
        : this([.. Required(sources)], [.. Required(averages).Select(list => Required(list).ToArray())], storage: [])
    {
    }

    private EmaMixer(Tensor[] sources, Tensor[][] averages, Tensor[] storage, bool staged = false)
    {
        _sources = sources;
        _averages = averages;
        _storage = storage;
        _staged = staged;
        (_group, _leafRequiringGrad, _staging) = Resolve(sources);
        Remember(sources);
    }

    /// <summary>
    /// Averages of the mixer's own, which begin as copies of the sources. They lie side by side and never move, so an update has only the
    /// sources to look after; <see cref="Averages"/> shows them, and they are freed with the mixer.
    /// </summary>
    /// <param name="sources">n tensors: float32, bfloat16 or float16, contiguous, on one device.</param>
    /// <param name="averageCount">How many averages of each, at least 1.</param>
    /// <param name="storage">
    /// Their type: Float32, or BFloat16, to which each update then has to round
    /// (<see cref="Update(EmaRounding, ReadOnlySpan{double})"/>).
    /// </param>
    /// <param name="device">
    /// Where they lie: null for where the sources are, else the CPU, to which each update then copies the sources first.
    /// </param>
    /// <exception cref="ArgumentException">
    /// A source does not fit, the storage is of another type, or the device is neither the CPU nor the sources'.
    /// </exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the averages' device.</exception>
    public static EmaMixer WithOwnAverages(
        IReadOnlyList<Tensor> sources, int averageCount = 1, torch.ScalarType storage = torch.ScalarType.Float32,
        torch.Device? device = null) =>
        WithOwnAverages(sources, averageCount, storage, device, alwaysStage: false);

    internal static EmaMixer WithOwnAverages(
        IReadOnlyList<Tensor> sources, int averageCount, torch.ScalarType storage, torch.Device? device, bool alwaysStage)
    {
        Tensor[] tensors = [.. Required(sources)];
        ArgumentOutOfRangeException.ThrowIfLessThan(averageCount, 1);
        if (storage is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16))
            throw new ArgumentException($"storage: {storage}; averages are stored in Float32 or BFloat16", nameof(storage));
        for (var i = 0; i < tensors.Length; i++)
            tensors[i].ToTensorView(Name(-1, i)); // its checks come before the first allocation
        var from = tensors.Length > 0 ? tensors[0].device : torch.CPU;
        device ??= from;
        var bothOnHost = device.type == DeviceType.CPU && from.type == DeviceType.CPU;
        var elsewhere = !bothOnHost && (device.type, device.index) != (from.type, from.index);
        if (elsewhere && device.type != DeviceType.CPU)
            throw new ArgumentException($"device: {device}; averages lie where the sources are, {from}, or on the CPU", nameof(device));

        var own = new Tensor[averageCount];
        var averages = new Tensor[averageCount][];
        try
        {
            for (var k = 0; k < averageCount; k++)
                (own[k], averages[k]) = Allocate(tensors, storage, device);
            return new EmaMixer(tensors, averages, own, staged: elsewhere || alwaysStage);
        }
        catch
        {
            Free(averages, own);
            throw;
        }
    }

    /// <summary>
    /// Averages of averages: a mixer whose sources are this one's averages, and whose own begin as copies of them. Update this mixer
    /// first, then that one; dispose that one first. Chains of chains go on from there.
    /// </summary>
    /// <param name="average">Which of this mixer's averages, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average.</exception>
    /// <exception cref="ObjectDisposedException">The mixer was disposed.</exception>
    public EmaMixer Chain(int average = 0)
    {
        var sources = Averages(average);
        return WithOwnAverages(sources, 1, sources.Count > 0 ? sources[0].dtype : torch.ScalarType.Float32);
    }

    /// <summary>The number of averages of each source.</summary>
    public int AverageCount => _averages.Length;

    /// <summary>Where updates run: Auto takes what fits the tensors' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>Whether updates trust that no tensor was moved, resized or disposed since the last check.</summary>
    public bool IsFrozen { get; private set; }

    /// <summary>How often an update found a tensor elsewhere than before and checked all of them anew.</summary>
    public int Rebuilds { get; private set; }

    /// <summary>One average's tensors, in the order of the sources.</summary>
    /// <param name="average">Which, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average.</exception>
    public IReadOnlyList<Tensor> Averages(int average = 0)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(average);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(average, AverageCount);
        return _averages[average];
    }

    /// <summary>One update of all averages.</summary>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <exception cref="ArgumentException">
    /// Another number of decays than of averages, or tensors that changed and fit no longer.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">A decay is NaN or outside [0, 1].</exception>
    /// <exception cref="InvalidOperationException">An average is a leaf that requires grad, and grad mode is on.</exception>
    /// <exception cref="BackendUnavailableException">The named <see cref="Backend"/> does not run here.</exception>
    /// <exception cref="ObjectDisposedException">The mixer or one of its tensors was disposed.</exception>
    public void Update(params ReadOnlySpan<double> decays) => Update(default, decays);

    /// <summary>The same for averages of which some are bfloat16.</summary>
    /// <param name="rounding">How to round averages in bfloat16; those in float32 need none.</param>
    /// <param name="decays">β of each average, within [0, 1].</param>
    /// <exception cref="ArgumentException">
    /// Another number of decays than of averages, averages in bfloat16 and no rounding, or tensors that changed and fit no longer.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A decay is NaN or outside [0, 1], or above 0.99 for an average in bfloat16 that is rounded to the nearest.
    /// </exception>
    /// <inheritdoc cref="Update(ReadOnlySpan{double})" path="/exception"/>
    public void Update(EmaRounding rounding, params ReadOnlySpan<double> decays)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (!IsFrozen && HasMoved())
        {
            ReplaceSources(_sources);
            Rebuilds++;
            AuxRuntime.Log?.Invoke($"EmaMixer: tensors moved; {_sources.Length} sources checked anew.");
        }

        if (_leafRequiringGrad is not null && torch.is_grad_enabled())
            throw new InvalidOperationException($"{_leafRequiringGrad} is a leaf that requires grad: update it inside torch.no_grad().");
        if (_staged)
            Stage();
        _group.Update(decays, rounding, Backend);
        GC.KeepAlive(_sources);
        GC.KeepAlive(_averages);
    }

    /// <summary>
    /// From now on updates do not look where the tensors are. The caller promises to move, resize and dispose none of them: writing to
    /// memory that was freed corrupts the process.
    /// </summary>
    public void Freeze()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (HasMoved())
            ReplaceSources(_sources);
        IsFrozen = true;
    }

    /// <summary>Lets go of the tensors and frees averages of the mixer's own; those of the caller stay.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _group.Dispose();
        Free([_staging], []);
        if (_storage.Length > 0)
            Free(_averages, _storage);
    }

    /// <summary>Goes on with other tensors of the same shapes; where they do not fit, everything is as it was.</summary>
    internal void ReplaceSources(Tensor[] sources)
    {
        var (group, leaf, staging) = Resolve(sources);
        _group.Dispose();
        Free([_staging], []);
        (_sources, _group, _leafRequiringGrad, _staging) = (sources, group, leaf, staging);
        Remember(sources);
    }

    private void Remember(Tensor[] sources)
    {
        _sourceAddresses = [.. sources.Select((source, i) => Address(source, -1, i))];
        _counts = [.. sources.Select(source => source.numel())];
    }

    // A tensor that was reallocated, retyped or given another storage has another address; resized or transposed in place it may not.
    private bool HasMoved()
    {
        var known = _group.Addresses;
        var width = AverageCount + 1;
        var movable = _storage.Length > 0 ? 0 : AverageCount;
        for (var i = 0; i < _sources.Length; i++)
        {
            if (Moved(_sources[i], -1, i, _sourceAddresses[i], _counts[i]))
                return true;
            for (var k = 0; k < movable; k++)
            {
                if (Moved(_averages[k][i], k, i, known[i * width + 1 + k], _counts[i]))
                    return true;
            }
        }

        return false;
    }

    private static bool Moved(Tensor tensor, int average, int index, nint address, long count) =>
        Address(tensor, average, index) != address
        || TorchNative.THSTensor_numel(tensor.Handle) != count
        || !TorchNative.THSTensor_is_contiguous(tensor.Handle);

    private void Stage()
    {
        using var noGrad = torch.no_grad();
        for (var i = 0; i < _sources.Length; i++)
            _staging[i].copy_(_sources[i]);
    }

    private static nint Address(Tensor tensor, int average, int index)
    {
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(Name(average, index), $"{Name(average, index)} was disposed");
        return TorchNative.THSTensor_data(tensor.Handle);
    }

    private (EmaGroup Group, string? LeafRequiringGrad, Tensor[] Staging) Resolve(Tensor[] sources)
    {
        if (!_staged)
        {
            var (group, leaf) = Group(sources);
            return (group, leaf, []);
        }

        Tensor[] staging = [.. sources.Select((source, i) => StagingFor(source, Name(-1, i)))];
        try
        {
            var (group, leaf) = Group(staging);
            return (group, leaf, staging);
        }
        catch
        {
            Free([staging], []);
            throw;
        }
    }

    private (EmaGroup Group, string? LeafRequiringGrad) Group(Tensor[] sources)
    {
        var sourceViews = sources.Select((tensor, i) => tensor.ToTensorView(Name(-1, i))).ToArray();
        var averageViews = _averages.Select((list, k) => list.Select((tensor, i) => tensor.ToTensorView(Name(k, i))).ToArray()).ToArray();
        var group = EmaGroup.FromViews(sourceViews, averageViews);
        EmaUpdate.Support.RequireDevice(group.Device);

        string? leaf = null;
        for (var k = 0; k < _averages.Length; k++)
        {
            for (var i = 0; i < _averages[k].Length; i++)
            {
                if (!_averages[k][i].requires_grad)
                    continue;
                if (!_averages[k][i].is_leaf)
                    throw new ArgumentException($"{Name(k, i)} is a computed tensor of an autograd graph; average into a detached one");
                leaf ??= Name(k, i);
            }
        }

        return (group, leaf);
    }

    // Contiguous like the source, so that what a group checks of it is what it would check of the source.
    private static Tensor StagingFor(Tensor source, string name)
    {
        if (!source.ToTensorView(name).IsContiguous)
            throw new ArgumentException($"{name}: {source.ToTensorView(name)} is not contiguous; pass a contiguous tensor");
        return torch.empty(source.shape, source.dtype, torch.CPU).DetachFromDisposeScope();
    }

    // One flat tensor, and views of it in the sources' shapes and with their values, detached from the caller's dispose scope.
    private static (Tensor Storage, Tensor[] Views) Allocate(Tensor[] sources, torch.ScalarType dtype, torch.Device device)
    {
        var alignment = AlignmentBytes / (dtype == torch.ScalarType.Float32 ? 4 : 2);
        long Aligned(long elements) => (elements + alignment - 1) / alignment * alignment;

        using var noGrad = torch.no_grad();
        var storage = torch.zeros(sources.Sum(source => Aligned(source.numel())), dtype, device).DetachFromDisposeScope();
        var views = new Tensor[sources.Length];
        var offset = 0L;
        for (var i = 0; i < views.Length; i++)
        {
            using var piece = storage.narrow(0, offset, sources[i].numel());
            views[i] = piece.view(sources[i].shape).DetachFromDisposeScope();
            views[i].copy_(sources[i]);
            offset += Aligned(sources[i].numel());
        }

        return (storage, views);
    }

    private static void Free(Tensor[][] averages, Tensor[] storage)
    {
        foreach (var tensor in averages.SelectMany(list => list ?? []).Concat(storage))
            tensor?.Dispose();
    }

    private static string Name(int average, int index) => average < 0 ? $"sources[{index}]" : $"averages[{average}][{index}]";

    private static T Required<T>(T list, [CallerArgumentExpression(nameof(list))] string? name = null) where T : class
    {
        ArgumentNullException.ThrowIfNull(list, name);
        return list;
    }
}
