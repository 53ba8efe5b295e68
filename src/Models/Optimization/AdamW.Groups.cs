using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using TorchSharp.Modules;

namespace AuxCore.Models;

/// <content>Which parameters there are, and how they are followed when a module replaces them.</content>
public sealed partial class AdamW
{
    /// <summary>Adds a group of parameters; what is null in its options is taken from the optimiser's defaults.</summary>
    /// <param name="param_group">
    /// An <see cref="ParamGroup"/>, or TorchSharp's base class with no options or with <see cref="Options"/>.
    /// </param>
    /// <exception cref="ArgumentException">
    /// It has another optimiser's options, or a parameter is of a type that cannot be stepped, not contiguous, repeated, or overlaps
    /// another. Nothing was added.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">A hyper-parameter is NaN or out of its range. Nothing was added.</exception>
    /// <exception cref="BackendUnavailableException">No backend runs on the parameters' device. Nothing was added.</exception>
    /// <exception cref="InvalidOperationException">Passes are being accumulated.</exception>
    public override void add_param_group(TorchSharp.Modules.ParamGroup param_group)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        RequireNothingPending(nameof(add_param_group));
        var group = Own(param_group);
        var options = group.Options.WithDefaults(Defaults);
        Settings(options, step: 1).Check("options");

        Parameter[] parameters = [.. group.Parameters];
        for (var i = 0; i < parameters.Length; i++)
        {
            if (parameters[i] is null || parameters[i].IsInvalid)
                throw new ArgumentException($"parameter {i} of the group is null or was disposed", nameof(param_group));
        }

        var names = Names(group, parameters.Length);
        var moments = new FlatTensors[2];
        try
        {
            long[][] shapes = [.. parameters.Select(parameter => parameter.shape)];
            var device = parameters.Length > 0 ? parameters[0].device : torch.CPU;
            for (var i = 0; i < moments.Length; i++)
                moments[i] = new FlatTensors(shapes, device);
            AdamWState[] states = [.. parameters.Select((parameter, i) =>
                new AdamWState(names[i], _parameter_groups.Count, parameter, moments[0].Views[i], moments[1].Views[i]))];
            RequireSteppable([.. _states, .. states]);

            foreach (var state in states)
                state.MakeMaster();
            options.InitialLearningRate = options.LearningRate!.Value;
            _parameter_groups.Add(group);
            _states.AddRange(states);
            _moments.AddRange(moments);
            foreach (var state in states)
                _state[state.Parameter.Handle] = state;
            _group?.Dispose();
            _group = null;
        }
        catch
        {
            foreach (var tensors in moments)
                tensors?.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override StateDictionary state_dict()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        FollowReplaced();
        return base.state_dict();
    }

    private static ParamGroup Own(TorchSharp.Modules.ParamGroup group)
    {
        ArgumentNullException.ThrowIfNull(group);
        if (group is ParamGroup own)
            return own;
        if (group.Options is not (null or Options))
            throw new ArgumentException($"the group's options are of {group.Options.GetType()}; pass an AdamW.ParamGroup", nameof(group));
        return new ParamGroup(group.Parameters, (Options?)group.Options);
    }

    // Names of two modules may be the same; the number of the group then tells them apart.
    private string[] Names(ParamGroup group, int count)
    {
        var names = group.Names?.ToArray() ?? [.. Enumerable.Range(0, count).Select(i => $"{_parameter_groups.Count}.{i}")];
        var taken = _states.Select(state => state.Name).ToHashSet();
        if (names.Any(taken.Contains))
            names = [.. names.Select(name => $"{_parameter_groups.Count}.{name}")];
        if (names.Length != count || names.Any(name => string.IsNullOrEmpty(name) || !taken.Add(name)))
            throw new ArgumentException("the group's names are not one a parameter, each used once", nameof(group));
        return names;
    }

    /// <summary>After <c>model.to(…)</c> the parameters are other objects, the old ones disposed: goes on with those.</summary>
    private void FollowReplaced()
    {
        if (!_states.Exists(static state => state.Parameter.IsInvalid))
            return;
        Parameter[] now = [.. _parameter_groups.SelectMany(group => group.Parameters)];
        if (now.Length != _states.Count)
            throw new ArgumentException($"there are {now.Length} parameters now where the optimiser was made of {_states.Count}");
        foreach (var (state, parameter) in _states.Zip(now))
        {
            if (parameter.IsInvalid)
                throw new ObjectDisposedException(
                    state.Name,
                    $"'{state.Name}' was disposed. Replaced parameters can be followed where the optimiser has model.parameters() itself; "
                    + "else make a new optimiser.");
            if (!parameter.shape.AsSpan().SequenceEqual(state.Shape))
                throw new ArgumentException(
                    $"'{state.Name}' now has shape {TensorView.Format(parameter.shape)}, its moments {TensorView.Format(state.Shape)}");
        }

        RequireSteppable(now, i => _states[i].Name);
        AuxRuntime.Log?.Invoke("AdamW: parameters were replaced; following the new ones.");
        _state.clear();
        foreach (var (state, parameter) in _states.Zip(now))
        {
            if (!ReferenceEquals(state.Parameter, parameter))
            {
                state.Parameter = parameter;
                state.MakeMaster();
            }

            _state[parameter.Handle] = state;
        }

        _group?.Dispose();
        _group = null;
    }

    private static void RequireSteppable(List<AdamWState> states)
    {
        foreach (var state in states)
        {
            if (!state.Parameter.shape.AsSpan().SequenceEqual(state.Shape))
                throw new ArgumentException(
                    $"'{state.Name}' now has shape {TensorView.Format(state.Parameter.shape)}, "
                    + $"its moments {TensorView.Format(state.Shape)}");
        }

        RequireSteppable([.. states.Select(state => state.Parameter)], i => states[i].Name);
    }

    // What the kernels' group would refuse under the name "parameters[3]", refused under the parameter's own.
    private static void RequireSteppable(Parameter[] parameters, Func<int, string> name)
    {
        var ranges = new List<MemoryRange>(parameters.Length);
        for (var i = 0; i < parameters.Length; i++)
        {
            var view = parameters[i].ToTensorView(name(i));
            if (view.DType is not (DType.Float32 or DType.BFloat16 or DType.Float16) || !view.IsContiguous)
                throw new ArgumentException($"'{name(i)}': {view}; AdamW steps contiguous float32, bfloat16 and float16 parameters");
            AdamWUpdate.Support.RequireDevice(view.Device);
            ranges.Add(new(view.Address, (nint)view.ByteCount, $"'{name(i)}'", IsWritten: true));
        }

        MemoryRange.RequireDisjoint(ranges);
    }
}
