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
/// <para>Tensors are checked when the mixer is made. Each update then compares their addresses with those it knows, and checks everything
/// anew where one has moved; <see cref="Freeze"/> leaves that out. A change of layout in place, at the same address (<c>t_()</c>), goes
/// unnoticed. Tensors that the caller made stay the caller's to dispose. Not thread-safe.</para>
/// <para>Updates write memory directly and do not raise autograd's version counters: do not update between the forward and the backward
/// pass of a graph that saved an average.</para>
/// </remarks>
public sealed class EmaMixer : IDisposable
{
    // Averages of our own begin on cache lines of their own.
    private const long AlignmentElements = 16;

    private readonly Tensor[][] _averages;
    private readonly Tensor[] _storage;      // flat, one an average; empty where the averages are the caller's
    private Tensor[] _sources;
    private EmaGroup _group;
    private string? _leafRequiringGrad;
    private bool _disposed;

    /// <summary>One average for each source.</summary>
    /// <param name="pairs">Source (float32, bfloat16 or float16) and its float32 average, of one shape, contiguous, on one device.</param>
    /// <exception cref="ArgumentException">A pair does not fit, tensors overlap or repeat; the message names the tensor.</exception>
    /// <exception cref="ObjectDisposedException">A tensor was disposed.</exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the tensors' device.</exception>
    public EmaMixer(IReadOnlyList<(Tensor Source, Tensor Average)> pairs)
        : this([.. Required(pairs).Select(pair => pair.Source)], [.. pairs.Select(pair => pair.Average)])
    {
    }

    /// <summary>Several averages of each source, each with a decay of its own.</summary>
    /// <param name="sources">n tensors: float32, bfloat16 or float16, contiguous, on one device.</param>
    /// <param name="averages">One list for each average: n float32 tensors, the i-th of the i-th source's shape.</param>
    /// <inheritdoc cref="EmaMixer(IReadOnlyList{ValueTuple{Tensor, Tensor}})" path="/exception"/>
    public EmaMixer(IReadOnlyList<Tensor> sources, params IReadOnlyList<Tensor>[] averages)
        : this([.. Required(sources)], [.. Required(averages).Select(list => Required(list).ToArray())], storage: [])
    {
    }

    private EmaMixer(Tensor[] sources, Tensor[][] averages, Tensor[] storage)
    {
        _sources = sources;
        _averages = averages;
        _storage = storage;
        (_group, _leafRequiringGrad) = Resolve(sources);
    }

    /// <summary>
    /// Averages of the mixer's own, which begin as copies of the sources. They lie side by side and never move, so an update has only the
    /// sources to look after; <see cref="Averages"/> shows them, and they are freed with the mixer.
    /// </summary>
    /// <param name="sources">n tensors: float32, bfloat16 or float16, contiguous, on one device.</param>
    /// <param name="averageCount">How many averages of each, at least 1.</param>
    /// <inheritdoc cref="EmaMixer(IReadOnlyList{ValueTuple{Tensor, Tensor}})" path="/exception"/>
    public static EmaMixer WithOwnAverages(IReadOnlyList<Tensor> sources, int averageCount = 1)
    {
        Tensor[] tensors = [.. Required(sources)];
        ArgumentOutOfRangeException.ThrowIfLessThan(averageCount, 1);
        for (var i = 0; i < tensors.Length; i++)
            tensors[i].ToTensorView(Name(-1, i)); // its checks come before the first allocation

        var storage = new Tensor[averageCount];
        var averages = new Tensor[averageCount][];
        try
        {
            for (var k = 0; k < averageCount; k++)
                (storage[k], averages[k]) = Allocate(tensors);
            return new EmaMixer(tensors, averages, storage);
        }
        catch
        {
            Free(averages, storage);
            throw;
        }
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
    public void Update(params ReadOnlySpan<double> decays)
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
        _group.Update(decays, Backend);
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
        if (_storage.Length > 0)
            Free(_averages, _storage);
    }

    /// <summary>Goes on with other tensors of the same shapes; where they do not fit, everything is as it was.</summary>
    internal void ReplaceSources(Tensor[] sources)
    {
        var (group, leaf) = Resolve(sources);
        _group.Dispose();
        (_sources, _group, _leafRequiringGrad) = (sources, group, leaf);
    }

    // A tensor that was reallocated, retyped or given another storage has another address.
    private bool HasMoved()
    {
        var known = _group.Addresses;
        var width = AverageCount + 1;
        var movable = _storage.Length > 0 ? 0 : AverageCount;
        for (var i = 0; i < _sources.Length; i++)
        {
            if (Address(_sources[i], -1, i) != known[i * width])
                return true;
            for (var k = 0; k < movable; k++)
            {
                if (Address(_averages[k][i], k, i) != known[i * width + 1 + k])
                    return true;
            }
        }

        return false;
    }

    private static nint Address(Tensor tensor, int average, int index)
    {
        if (tensor.IsInvalid)
            throw new ObjectDisposedException(Name(average, index), $"{Name(average, index)} was disposed");
        return TorchNative.THSTensor_data(tensor.Handle);
    }

    private (EmaGroup Group, string? LeafRequiringGrad) Resolve(Tensor[] sources)
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

    // One flat tensor, and views of it in the sources' shapes and with their values, detached from the caller's dispose scope.
    private static (Tensor Storage, Tensor[] Views) Allocate(Tensor[] sources)
    {
        static long Aligned(long elements) => (elements + AlignmentElements - 1) / AlignmentElements * AlignmentElements;

        using var noGrad = torch.no_grad();
        var device = sources.Length > 0 ? sources[0].device : torch.CPU;
        var storage = torch.zeros(sources.Sum(source => Aligned(source.numel())), torch.float32, device).DetachFromDisposeScope();
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
