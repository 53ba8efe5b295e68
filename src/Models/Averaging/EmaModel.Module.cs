using AuxCore.Interop;
using AuxCore.Kernels;
using Module = TorchSharp.torch.nn.Module;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>What is averaged: the module's parameters and buffers by name, and how it is noticed that they are others now.</content>
public sealed partial class EmaModel
{
    /// <summary>Reads the module's tensors again: after <c>model.to(…)</c> they are other objects, the old ones disposed.</summary>
    /// <exception cref="ArgumentException">Names or shapes changed; the averages are as they were.</exception>
    internal void Rebind()
    {
        var (averaged, copied) = ReadModule();
        Require([.. _averaged.Select(entry => (entry.Name, entry.Averages[0].shape))], averaged);
        Require([.. _copied.Select(entry => (entry.Name, entry.Copy.shape))], copied);
        var replaced = _averaged.Zip(averaged).Any(pair => !ReferenceEquals(pair.First.Tensor, pair.Second.Tensor))
            || _copied.Zip(copied).Any(pair => !ReferenceEquals(pair.First.Tensor, pair.Second.Tensor));
        if (replaced)
        {
            AuxRuntime.Log?.Invoke("EmaModel: the module's tensors were replaced; following the new ones.");
            _mixer.ReplaceSources([.. averaged.Select(entry => entry.Tensor)]);
        }

        _averaged = [.. _averaged.Zip(averaged, (old, now) => old with { Entry = now })];
        _copied = [.. _copied.Zip(copied, (old, now) => old with { Entry = now })];
    }

    // Whether a parameter or buffer is no longer the one that its module has. A look-up each, far less than a training step takes.
    private bool IsStale()
    {
        foreach (var averaged in _averaged)
        {
            if (averaged.Entry.IsStale)
                return true;
        }

        foreach (var copied in _copied)
        {
            if (copied.Entry.IsStale)
                return true;
        }

        return false;
    }

    // Parameters that are the same memory count once, under their first name.
    private (List<Entry> Averaged, List<Entry> Copied) ReadModule()
    {
        var (averaged, copied) = (new List<Entry>(), new List<Entry>());
        var owners = new Dictionary<string, (Module Owner, string Name)>();
        FindOwners(_model, "", owners);
        var seen = new HashSet<(nint, long)>();
        foreach (var (name, parameter) in _model.named_parameters())
        {
            if (_options.Parameters is { } wanted && !wanted(name))
                continue;
            var view = parameter.ToTensorView(name);
            if (view.ElementCount == 0 || seen.Add((view.Address, view.ElementCount)))
                averaged.Add(new(name, parameter, owners.GetValueOrDefault(name), IsBuffer: false));
        }

        var unknown = (_options.BuffersByName ?? new Dictionary<string, BufferPolicy>()).Keys.ToHashSet();
        foreach (var (name, buffer) in _model.named_buffers(include_nonpersistent: false))
        {
            unknown.Remove(name);
            var policy = PolicyOf(name);
            if (policy != BufferPolicy.Skip)
                (policy == BufferPolicy.Mix && buffer.is_floating_point() ? averaged : copied).Add(
                    new(name, buffer, owners.GetValueOrDefault(name), IsBuffer: true));
        }

        if (unknown.Count > 0)
            throw new ArgumentException($"options.BuffersByName: the model has no persistent buffer '{unknown.Order().First()}'");
        RequireAveragable(averaged);
        return (averaged, copied);
    }

    private BufferPolicy PolicyOf(string name)
    {
        var policy = _options.BuffersByName is { } byName && byName.TryGetValue(name, out var named)
            ? named
            : _options.BufferRule?.Invoke(name) ?? _options.Buffers;
        return Enum.IsDefined(policy)
            ? policy
            : throw new ArgumentException($"options: {policy} is not a buffer policy, for '{name}'");
    }

    private static void FindOwners(Module module, string prefix, Dictionary<string, (Module Owner, string Name)> owners)
    {
        foreach (var name in module.named_parameters(recurse: false).Select(entry => entry.name)
            .Concat(module.named_buffers(recurse: false, include_nonpersistent: false).Select(entry => entry.name)))
            owners.TryAdd(prefix + name, (module, name));
        foreach (var (name, child) in module.named_children())
            FindOwners(child, $"{prefix}{name}.", owners);
    }

    // What the mixer would refuse under the name "sources[3]", refused under the module's own.
    private static void RequireAveragable(List<Entry> tensors)
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

    private static void Require(List<(string Name, long[] Shape)> known, List<Entry> found)
    {
        if (known.Count != found.Count)
            throw new ArgumentException($"the model now has {found.Count} tensors where the averages were made of {known.Count}");
        foreach (var ((name, shape), entry) in known.Zip(found))
        {
            if (name != entry.Name)
                throw new ArgumentException($"the model now has '{entry.Name}' where the averages have '{name}'");
            if (!shape.AsSpan().SequenceEqual(entry.Tensor.shape))
                throw new ArgumentException(
                    $"'{name}' now has shape {TensorView.Format(entry.Tensor.shape)}, its average {TensorView.Format(shape)}");
        }
    }

    private static void Check(EmaOptions options, EmaSchedule[] schedules)
    {
        if (!Enum.IsDefined(options.Buffers))
            throw new ArgumentOutOfRangeException(nameof(options), options.Buffers, "Not a buffer policy.");
        if (!Enum.IsDefined(options.Storage))
            throw new ArgumentOutOfRangeException(nameof(options), options.Storage, "Not a storage of averages.");
        if (options.Every < 1)
            throw new ArgumentOutOfRangeException(nameof(options), options.Every, "Every is at least 1.");
        if (options.StartAfter < 0)
            throw new ArgumentOutOfRangeException(nameof(options), options.StartAfter, "StartAfter is at least 0.");
        if (options.Levels < 1)
            throw new ArgumentOutOfRangeException(nameof(options), options.Levels, "Levels is at least 1.");
        if (options.Storage != EmaStorage.BFloat16Nearest || options.ForceNearest)
            return;
        for (var k = 0; k < schedules.Length; k++)
        {
            if (schedules[k].Supremum(options.Every) > EmaRounding.LargestNearestDecay)
                throw new ArgumentException(
                    EmaRounding.NearestStalls($"schedules[{k}]: {schedules[k]}, an average that"), nameof(schedules));
        }
    }

    /// <summary>A tensor of the module, by the module's own name for it, and the submodule that has it.</summary>
    internal sealed record Entry(string Name, Tensor Tensor, (Module? Module, string Name) Owner, bool IsBuffer)
    {
        public bool IsStale => Owner.Module is { } module
            && !ReferenceEquals(IsBuffer ? module.get_buffer(Owner.Name) : module.get_parameter(Owner.Name), Tensor);
    }

    internal sealed record Averaged(Entry Entry, Tensor[] Averages)
    {
        public string Name => Entry.Name;

        public Tensor Tensor => Entry.Tensor;
    }

    internal sealed record CopiedBuffer(Entry Entry, Tensor Copy)
    {
        public string Name => Entry.Name;

        public Tensor Tensor => Entry.Tensor;
    }
}
