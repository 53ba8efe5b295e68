using System.Runtime.InteropServices;
using AuxCore.Kernels;

namespace AuxCore.Models;

/// <content>What happens at a step: look, decide, write. Nothing is written before everything was looked at.</content>
public sealed partial class AdamW
{
    private readonly List<AdamWSettings> _settings = [];
    private readonly List<(int Group, long Step)> _settingsFor = [];

    private void Step()
    {
        FollowReplaced();
        if (Averages is { } averages)
            averages.UpdateWith(Step);
        else
            Step(null);
    }

    /// <param name="decays">One an average, where averages are due at this step; else null.</param>
    /// <returns>False if the step was skipped.</returns>
    private bool Step(double[]? decays)
    {
        var group = CurrentGroup();
        using var gradients = new ParameterGradients();
        ReadGradients(group, gradients);
        if (decays is not null)
            _links.PrepareRest(_states);
        var scale = 1 / (AccumulationSteps * (Scaler?.CurrentScale ?? 1));
        if (!Accepts(group, ref scale))
            return false;

        if (_settings.Count > 0)
            group.Update(CollectionsMarshal.AsSpan(_settings), _settingsOf, scale, AverageLinks.Decays(decays, group.AverageCount),
                Backend);
        if (decays is not null)
            _links.UpdateRest(decays, Backend);
        foreach (var state in _states)
        {
            if (state.TakesPart)
                state.Step++;
        }

        Scaler?.Update(overflowed: false);
        Steps++;
        GC.KeepAlive(_states);
        return true;
    }

    /// <summary>Looks at the gradients, where somebody asked for that; clips by their norm.</summary>
    /// <returns>Whether to take the step.</returns>
    private bool Accepts(AdamWGroup group, ref double scale)
    {
        LastGradientNorm = double.NaN;
        if (MaxGradientNorm is null && Scaler is null && NonFinite == NonFiniteGradients.Propagate)
            return true;

        var summary = group.Norm(Backend);
        LastGradientNorm = summary.Norm * scale;
        scale *= GradientNorm.ClipFactor(summary, scale, MaxGradientNorm);
        if (summary.IsFinite)
            return true;

        NonFiniteSteps++;
        if (Scaler is null && NonFinite == NonFiniteGradients.Throw)
            throw new NonFiniteGradientException(nameof(AdamW), _states[group.FirstNonFinite(Backend)].Name, summary.NonFinite);
        if (Scaler is null && NonFinite != NonFiniteGradients.Skip)
            return true;
        SkippedSteps++;
        Scaler?.Update(overflowed: true);
        return false;
    }

    /// <summary>Where each gradient is, and which settings its parameter follows: those of its group, at its own step.</summary>
    private void ReadGradients(AdamWGroup group, ParameterGradients gradients)
    {
        _settings.Clear();
        _settingsFor.Clear();
        var at = -1;
        for (var i = 0; i < _states.Count; i++)
        {
            var state = _states[i];
            var (address, dtype) = gradients.Read(state.Parameter, state.Name, state.Shape, state.Place);
            group.SetGradient(i, address, dtype);
            state.TakesPart = address != 0;
            _settingsOf[i] = 0;
            if (!state.TakesPart)
                continue;

            var wanted = (state.Group, state.Step + 1);
            if (at < 0 || _settingsFor[at] != wanted)
                at = _settingsFor.IndexOf(wanted);
            if (at < 0)
            {
                at = _settings.Count;
                _settingsFor.Add(wanted);
                _settings.Add(Settings((Options)_parameter_groups[state.Group].Options, state.Step + 1));
            }

            _settingsOf[i] = at;
        }
    }

    private AdamWGroup CurrentGroup()
    {
        if (_group is not null && _links.AreCurrent && !HasMoved(_group))
            return _group;

        RequireSteppable(_states);
        _links.Link(_states);
        var group = AdamWGroup.FromViews([.. _states.Select((state, i) => state.Tensors(_links.Of(i)))]);
        AdamWUpdate.Support.RequireDevice(group.Device);
        _group?.Dispose();
        _settingsOf = new int[_states.Count];
        return _group = group;
    }

    // A parameter that was given another storage has another address.
    private bool HasMoved(AdamWGroup group)
    {
        for (var i = 0; i < _states.Count; i++)
        {
            if (TorchNative.THSTensor_data(_states[i].Parameter.Handle) != group.ParameterAddress(i))
                return true;
        }

        return false;
    }
}
