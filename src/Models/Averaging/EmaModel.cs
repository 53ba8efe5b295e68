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
/// The averages begin as copies of the parameters. Parameters that <c>model.to(…)</c> retyped between float32, bfloat16 and float16 are
/// noticed and followed at the next update; a changed set of names or shapes is an error. A parameter that was replaced while the old one
/// was not disposed is noticed only by <see cref="Swap"/>. Parameters that share memory (tied weights) are averaged once; TorchSharp unties
/// them when it retypes a module, so retype first. Not thread-safe.
/// </remarks>
public sealed partial class EmaModel : IDisposable
{
    private readonly Module _model;
    private readonly EmaSchedule[] _schedules;
    private readonly EmaMixer _mixer;
    private Averaged[] _averaged;
    private CopiedBuffer[] _copied;
    private EmaSwap? _swap;
    private bool _disposed;

    /// <summary>One average.</summary>
    /// <param name="model">The module that is trained.</param>
    /// <param name="schedule">Its decay.</param>
    /// <param name="buffers">What to do with persistent buffers.</param>
    /// <exception cref="ArgumentException">
    /// A parameter is not float32, bfloat16 or float16, not contiguous, or partly overlaps another.
    /// </exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the parameters' device.</exception>
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
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(schedules);
        if (schedules.Count == 0 || schedules.Contains(null!))
            throw new ArgumentException("schedules: at least one, and none of them null", nameof(schedules));
        if (!Enum.IsDefined(buffers))
            throw new ArgumentOutOfRangeException(nameof(buffers), buffers, "Not a buffer policy.");
        _model = model;
        _schedules = [.. schedules];
        Buffers = buffers;

        var (averaged, copied) = ReadModule();
        _mixer = EmaMixer.WithOwnAverages([.. averaged.Select(entry => entry.Tensor)], _schedules.Length);
        _averaged = [.. averaged.Select((entry, i) =>
            new Averaged(entry.Name, entry.Tensor, [.. Enumerable.Range(0, _schedules.Length).Select(k => _mixer.Averages(k)[i])]))];
        try
        {
            _copied = [.. copied.Select(buffer => new CopiedBuffer(buffer.Name, buffer.Tensor, CopyOf(buffer.Tensor)))];
        }
        catch
        {
            _mixer.Dispose();
            throw;
        }
    }

    /// <summary>Updates done so far; the schedules count by it.</summary>
    public long Step { get; private set; }

    /// <summary>The number of averages.</summary>
    public int AverageCount => _schedules.Length;

    /// <summary>What happens with persistent buffers.</summary>
    public BufferPolicy Buffers { get; }

    /// <inheritdoc cref="EmaMixer.Backend"/>
    public AuxBackend Backend
    {
        get => _mixer.Backend;
        set => _mixer.Backend = value;
    }

    /// <summary>Moves every average towards the model's present parameters; call it once after each optimiser step.</summary>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>, while the model holds the averages itself.</exception>
    /// <exception cref="ArgumentException">
    /// The model's parameters changed in name, number, shape, or to a type that cannot be averaged.
    /// </exception>
    /// <exception cref="ObjectDisposedException">The averages were disposed.</exception>
    public void Update()
    {
        RequireUsable("Update");
        var decays = Decays();
        if (_copied.Any(buffer => buffer.Tensor.IsInvalid))
            Rebind();
        try
        {
            _mixer.Update(decays);
        }
        catch (Exception error) when (error is ObjectDisposedException or ArgumentException)
        {
            // model.to(…) disposes the parameters that it replaces. Where they do not fit any longer,
            // Rebind says so by the model's own names.
            Rebind();
            _mixer.Update(decays);
        }

        CopyBuffers();
        Step++;
    }

    /// <summary>
    /// Exchanges the model's parameters (and, unless the policy is Skip, its buffers) with an average, in place, until the returned scope
    /// is disposed; an exception in between restores them as well. Meanwhile the model may be evaluated and saved, but not trained.
    /// </summary>
    /// <param name="average">Which average, from 0.</param>
    /// <remarks>
    /// Raises the parameters' autograd version counters, so a backward pass through a graph from before the exchange fails instead of using
    /// wrong values. Allocates only where parameters are not float32, once.
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
        var values = StateDict(average);
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
        _mixer.Dispose();
        foreach (var buffer in _copied)
            buffer.Copy.Dispose();
    }

    internal IReadOnlyList<Averaged> AveragedTensors => _averaged;

    internal IReadOnlyList<CopiedBuffer> CopiedBuffers => _copied;

    internal void EndSwap() => _swap = null;

    /// <summary>Reads the module's tensors again: after <c>model.to(…)</c> they are other objects, the old ones disposed.</summary>
    /// <exception cref="ArgumentException">Names or shapes changed; the averages are as they were.</exception>
    internal void Rebind()
    {
        var (averaged, copied) = ReadModule();
        Require([.. _averaged.Select(entry => (entry.Name, entry.Averages[0].shape))], averaged);
        Require([.. _copied.Select(entry => (entry.Name, entry.Copy.shape))], copied);
        if (_averaged.Zip(averaged).All(pair => ReferenceEquals(pair.First.Tensor, pair.Second.Tensor))
            && _copied.Zip(copied).All(pair => ReferenceEquals(pair.First.Tensor, pair.Second.Tensor)))
            return;

        AuxRuntime.Log?.Invoke("EmaModel: the module's tensors were replaced; following the new ones.");
        _mixer.ReplaceSources([.. averaged.Select(entry => entry.Tensor)]);
        _averaged = [.. _averaged.Zip(averaged, (old, now) => old with { Tensor = now.Tensor })];
        _copied = [.. _copied.Zip(copied, (old, now) => old with { Tensor = now.Tensor })];
    }

    private double[] Decays() => [.. _schedules.Select(schedule => schedule.DecayAt(Step))];

    private void CopyBuffers()
    {
        if (_copied.Length == 0)
            return;
        using var noGrad = torch.no_grad();
        foreach (var buffer in _copied)
            buffer.Copy.copy_(buffer.Tensor);
    }

    // Parameters that are the same memory count once, under their first name.
    private (List<(string Name, Tensor Tensor)> Averaged, List<(string Name, Tensor Tensor)> Copied) ReadModule()
    {
        var (averaged, copied) = (new List<(string, Tensor)>(), new List<(string, Tensor)>());
        var seen = new HashSet<(nint, long)>();
        foreach (var (name, parameter) in _model.named_parameters())
        {
            var view = parameter.ToTensorView(name);
            if (view.ElementCount == 0 || seen.Add((view.Address, view.ElementCount)))
                averaged.Add((name, parameter));
        }

        if (Buffers != BufferPolicy.Skip)
        {
            foreach (var (name, buffer) in _model.named_buffers(include_nonpersistent: false))
                (Buffers == BufferPolicy.Mix && buffer.is_floating_point() ? averaged : copied).Add((name, buffer));
        }

        RequireAveragable(averaged);
        return (averaged, copied);
    }

    // What the mixer would refuse under the name "sources[3]", refused under the module's own.
    private static void RequireAveragable(List<(string Name, Tensor Tensor)> tensors)
    {
        var views = tensors.Select(entry => (entry.Name, View: entry.Tensor.ToTensorView(entry.Name))).ToArray();
        foreach (var (name, view) in views)
        {
            if (view.DType is not (DType.Float32 or DType.BFloat16 or DType.Float16) || !view.IsContiguous)
                throw new ArgumentException($"'{name}': {view}; EmaModel averages contiguous float32, bfloat16 and float16 parameters");
        }

        // Exchanging tensors that overlap in part would scramble them.
        var byAddress = views.Where(entry => entry.View.ElementCount > 0).OrderBy(entry => entry.View.Address).ToArray();
        foreach (var (first, second) in byAddress.Zip(byAddress.Skip(1)))
        {
            if (first.View.Address + (nint)first.View.ByteCount > second.View.Address)
                throw new ArgumentException(
                    $"'{second.Name}' overlaps '{first.Name}' in memory; EmaModel needs parameters of their own or wholly tied ones");
        }
    }

    private static void Require(List<(string Name, long[] Shape)> known, List<(string Name, Tensor Tensor)> found)
    {
        if (known.Count != found.Count)
            throw new ArgumentException($"the model now has {found.Count} tensors where the averages were made of {known.Count}");
        foreach (var ((name, shape), (foundName, tensor)) in known.Zip(found))
        {
            if (name != foundName)
                throw new ArgumentException($"the model now has '{foundName}' where the averages have '{name}'");
            if (!shape.AsSpan().SequenceEqual(tensor.shape))
                throw new ArgumentException(
                    $"'{name}' now has shape {TensorView.Format(tensor.shape)}, its average {TensorView.Format(shape)}");
        }
    }

    private static Tensor CopyOf(Tensor tensor)
    {
        using var noGrad = torch.no_grad();
        return tensor.clone().DetachFromDisposeScope();
    }

    private void RequireUsable(string operation)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_swap is not null)
            throw new InvalidOperationException($"{operation} inside a Swap: the model holds its averages until the scope is disposed.");
    }

    private void RequireAverage(int average)
    {
        if (average < 0 || average >= _schedules.Length)
            throw new ArgumentOutOfRangeException(nameof(average), average, $"There are {_schedules.Length} averages.");
    }

    internal sealed record Averaged(string Name, Tensor Tensor, Tensor[] Averages);

    internal sealed record CopiedBuffer(string Name, Tensor Tensor, Tensor Copy);
}
