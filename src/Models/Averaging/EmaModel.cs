using AuxCore.Interop;
using TorchSharp;
using Module = TorchSharp.torch.nn.Module;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Exponential moving averages of a module's parameters, kept in float32 whatever the parameters' type: one or more, each with its own
/// decay schedule, all updated in one pass.
/// <code>
/// using var ema = new EmaModel(model, EmaSchedule.HalfLife(steps: 500));
/// optimizer.step(); ema.Update();
/// using (ema.Swap()) Evaluate(model);
/// </code>
/// </summary>
/// <remarks>
/// The averages begin as copies of the parameters. Parameters that <c>model.to(…)</c> retyped between float32, bfloat16 and float16, and
/// parameters and buffers that were replaced in their modules, are noticed and followed at the next update; a changed set of names or
/// shapes is an error. One that was added is noticed by <see cref="Swap"/>. Parameters that share memory (tied weights) are averaged once;
/// TorchSharp unties them when it retypes a module, so retype first. Not thread-safe.
/// </remarks>
public sealed partial class EmaModel : IDisposable
{
    private readonly Module _model;
    private readonly EmaSchedule[] _schedules;
    private readonly EmaOptions _options;
    private readonly EmaMixer _mixer;
    private readonly EmaMixer[] _chain = []; // averages of averages, level by level, one mixer an average
    private Averaged[] _averaged;
    private CopiedBuffer[] _copied;
    private FedBack? _feedBack;
    private EmaSwap? _swap;
    private bool _disposed;

    /// <summary>One average.</summary>
    /// <param name="model">The module that is trained.</param>
    /// <param name="schedule">Its decay.</param>
    /// <param name="buffers">What to do with persistent buffers.</param>
    /// <exception cref="ArgumentException">
    /// A parameter is not float32, bfloat16 or float16, not contiguous, or partly overlaps another; an option does not fit the model or a
    /// schedule.
    /// </exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the averages' device.</exception>
    public EmaModel(Module model, EmaSchedule schedule, BufferPolicy buffers = BufferPolicy.Copy)
        : this(model, [schedule], buffers)
    {
    }

    /// <summary>Several averages of different widths, all updated in one pass over the parameters.</summary>
    /// <param name="model">The module that is trained.</param>
    /// <param name="schedules">The decay of each average; at least one.</param>
    /// <param name="buffers">What to do with persistent buffers.</param>
    /// <inheritdoc cref="EmaModel(Module, EmaSchedule, BufferPolicy)" path="/exception"/>
    public EmaModel(Module model, IReadOnlyList<EmaSchedule> schedules, BufferPolicy buffers = BufferPolicy.Copy)
        : this(model, schedules, new EmaOptions { Buffers = buffers })
    {
    }

    /// <summary>One average, with options.</summary>
    /// <param name="model">The module that is trained.</param>
    /// <param name="schedule">Its decay.</param>
    /// <param name="options">When to update, what to do with buffers, how to store the averages.</param>
    /// <inheritdoc cref="EmaModel(Module, EmaSchedule, BufferPolicy)" path="/exception"/>
    public EmaModel(Module model, EmaSchedule schedule, EmaOptions options)
        : this(model, [schedule], options)
    {
    }

    /// <summary>Several averages, with options.</summary>
    /// <param name="model">The module that is trained.</param>
    /// <param name="schedules">The decay of each average; at least one.</param>
    /// <param name="options">When to update, what to do with buffers, how to store the averages.</param>
    /// <inheritdoc cref="EmaModel(Module, EmaSchedule, BufferPolicy)" path="/exception"/>
    public EmaModel(Module model, IReadOnlyList<EmaSchedule> schedules, EmaOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(schedules);
        ArgumentNullException.ThrowIfNull(options);
        if (schedules.Count == 0 || schedules.Contains(null!))
            throw new ArgumentException("schedules: at least one, and none of them null", nameof(schedules));
        _model = model;
        _schedules = [.. schedules];
        _options = options;
        Check(options, _schedules);

        var (averaged, copied) = ReadModule();
        Tensor[] sources = [.. averaged.Select(entry => entry.Tensor)];
        var storage = options.Storage == EmaStorage.Float32 ? torch.ScalarType.Float32 : torch.ScalarType.BFloat16;
        _mixer = EmaMixer.WithOwnAverages(sources, _schedules.Length, storage, options.Device, options.AlwaysStage);
        try
        {
            _chain = ChainOf(_mixer, _schedules.Length, options.Levels);
            _averaged = [.. averaged.Select((entry, i) => new Averaged(
                entry, [.. Enumerable.Range(0, AverageCount).Select(k => AverageTensors(k)[i])]))];
            _copied = [.. copied.Select(entry => new CopiedBuffer(entry, CopyOf(entry.Tensor, options.Device)))];
        }
        catch
        {
            Free();
            throw;
        }
    }

    /// <summary>
    /// Optimiser steps so far: the calls of <see cref="Update"/>, those between the updates included. Options and schedules count by it.
    /// </summary>
    public long Step { get; private set; }

    /// <summary>
    /// How often the averages have moved towards the parameters; copies up to <see cref="EmaOptions.StartAfter"/> do not count.
    /// </summary>
    public long Updates => Step < FirstStep ? 0 : (Step - FirstStep) / Every + 1;

    /// <summary>The number of averages: one a schedule, times <see cref="EmaOptions.Levels"/>.</summary>
    public int AverageCount => _schedules.Length * _options.Levels;

    /// <summary>What happens with persistent buffers of which the options say nothing by name.</summary>
    public BufferPolicy Buffers => _options.Buffers;

    /// <summary>Optimiser steps from one update to the next.</summary>
    public int Every => _options.Every;

    /// <summary>The optimiser step up to which updates copy.</summary>
    public long StartAfter => _options.StartAfter;

    /// <inheritdoc cref="EmaMixer.Backend"/>
    public AuxBackend Backend
    {
        get => _mixer.Backend;
        set
        {
            _mixer.Backend = value;
            foreach (var mixer in _chain)
                mixer.Backend = value;
        }
    }

    /// <summary>
    /// Exchanges the model's parameters (and, unless the policy is Skip, its buffers) with an average, in place, until the returned scope
    /// is disposed; an exception in between restores them as well. Meanwhile the model may be evaluated and saved, but not trained.
    /// </summary>
    /// <param name="average">Which average, from 0.</param>
    /// <remarks>
    /// Raises the parameters' autograd version counters, so a backward pass through a graph from before the exchange fails instead of using
    /// wrong values. Allocates only where parameters and averages differ in type or device.
    /// </remarks>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average.</exception>
    /// <exception cref="InvalidOperationException">A swap is active already.</exception>
    public EmaSwap Swap(int average = 0)
    {
        RequireUsable("Swap");
        RequireAverage(average);
        Rebind();
        return _swap = new EmaSwap(this, average);
    }

    /// <summary>Copies an average into a module of the same names and shapes: the trained model itself, or another one to export.</summary>
    /// <param name="target">Where to; its parameters keep their types.</param>
    /// <param name="average">Which average, from 0.</param>
    /// <exception cref="ArgumentException">The module lacks a name, or has it with another shape. Nothing was written.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average.</exception>
    /// <exception cref="InvalidOperationException">A swap is active.</exception>
    public void CopyTo(Module target, int average = 0)
    {
        ArgumentNullException.ThrowIfNull(target);
        RequireUsable("CopyTo");
        Copy(StateDict(average), target);
    }

    /// <summary>
    /// One average's tensors by the module's names (copied buffers included). They are the live averages: read them, do not dispose them.
    /// </summary>
    /// <param name="average">Which average, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average.</exception>
    public IReadOnlyDictionary<string, Tensor> StateDict(int average = 0)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        RequireAverage(average);
        var tensors = _averaged.ToDictionary(entry => entry.Name, entry => entry.Averages[average]);
        foreach (var buffer in _copied)
            tensors.Add(buffer.Name, buffer.Copy);
        return tensors;
    }

    /// <summary>Restores the model if a swap is active, and frees the averages.</summary>
    /// <exception cref="ArgumentException">
    /// The active swap cannot be undone (see <see cref="EmaSwap.Dispose"/>). Nothing was freed.
    /// </exception>
    public void Dispose()
    {
        if (_disposed)
            return;
        _swap?.Dispose(); // where this throws, the averages still hold the training weights and must live on
        _disposed = true;
        Free();
    }

    internal IReadOnlyList<Averaged> AveragedTensors => _averaged;

    internal IReadOnlyList<CopiedBuffer> CopiedBuffers => _copied;

    internal void EndSwap() => _swap = null;

    private static Tensor CopyOf(Tensor tensor, torch.Device? device)
    {
        using var noGrad = torch.no_grad();
        var copy = torch.empty_like(tensor, device: device ?? tensor.device).DetachFromDisposeScope();
        return copy.copy_(tensor);
    }

    // All names and shapes are compared before the first copy.
    internal static void Copy(IReadOnlyDictionary<string, Tensor> values, Module target)
    {
        var targets = target.named_parameters().Select(p => (p.name, (Tensor)p.parameter))
            .Concat(target.named_buffers(include_nonpersistent: false).Select(b => (b.name, b.buffer)))
            .ToDictionary(entry => entry.name, entry => entry.Item2);
        foreach (var (name, value) in values)
        {
            if (!targets.TryGetValue(name, out var destination))
                throw new ArgumentException($"the target module has no '{name}'", nameof(target));
            if (!destination.shape.AsSpan().SequenceEqual(value.shape))
                throw new ArgumentException(
                    $"'{name}' has shape {TensorView.Format(destination.shape)} in the target module, "
                    + $"{TensorView.Format(value.shape)} here",
                    nameof(target));
        }

        using var noGrad = torch.no_grad();
        foreach (var (name, value) in values)
            targets[name].copy_(value);
    }

    private IReadOnlyList<Tensor> AverageTensors(int average) =>
        average < _schedules.Length ? _mixer.Averages(average) : _chain[average - _schedules.Length].Averages();

    private void Free()
    {
        foreach (var mixer in _chain.Reverse())
            mixer.Dispose();
        _mixer.Dispose();
        foreach (var buffer in _copied ?? [])
            buffer.Copy.Dispose();
    }

    private void RequireUsable(string operation)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_swap is not null)
            throw new InvalidOperationException($"{operation} inside a Swap: the model holds its averages until the scope is disposed.");
    }

    private void RequireAverage(int average)
    {
        if (average < 0 || average >= AverageCount)
            throw new ArgumentOutOfRangeException(nameof(average), average, $"There are {AverageCount} averages.");
    }
}
