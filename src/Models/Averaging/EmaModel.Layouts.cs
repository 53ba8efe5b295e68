using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>Averages from and for other libraries.</content>
public sealed partial class EmaModel
{
    private const string Wrapper = "module.";
    private const string CountKey = "n_averaged";
    private const long MostUpdates = 1L << 53; // beyond that a count is damage, and steps would overflow

    // A model that was wrapped twice (distributed training) has the prefix twice.
    private static readonly string[] Prefixes = ["", Wrapper, Wrapper + Wrapper];

    /// <summary>Takes over one average that another library made, from its state dictionary.</summary>
    /// <param name="state">
    /// Tensors by name: at least those that are averaged or copied here, and no other than the model's. Any floating type is converted.
    /// </param>
    /// <param name="layout">Whose names they are.</param>
    /// <param name="average">Which average takes them, from 0.</param>
    /// <param name="step">
    /// The optimiser steps so far. Without it they stay what they are, or, from swa_utils, become those after which
    /// <see cref="Updates"/> is its <c>n_averaged</c>.
    /// </param>
    /// <exception cref="ArgumentException">
    /// A name is missing or not the model's, or a tensor has another shape or no floating type. Nothing was written.
    /// </exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average or layout, or the step is negative.</exception>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>.</exception>
    public void Load(IReadOnlyDictionary<string, Tensor> state, EmaLayout layout, int average = 0, long? step = null)
    {
        ArgumentNullException.ThrowIfNull(state);
        RequireUsable("Load");
        RequireAverage(average);
        RequireLayout(layout);
        if (step < 0)
            throw new ArgumentOutOfRangeException(nameof(step), step, "Steps are at least 0.");

        var targets = _averaged.ToDictionary(entry => entry.Name, entry => entry.Averages[average]);
        foreach (var buffer in _copied)
            targets.Add(buffer.Name, buffer.Copy);
        var candidates = layout == EmaLayout.SwaUtils ? Prefixes[1..] : Prefixes;
        var prefix = Array.Find(candidates, each => targets.Keys.All(name => state.ContainsKey(each + name))) ?? candidates[0];
        foreach (var (name, target) in targets)
            RequireFit(state, prefix + name, target);
        var known = FullState().Keys.Select(name => prefix + name).ToHashSet();
        if (layout == EmaLayout.SwaUtils)
            known.Add(CountKey);
        if (state.Keys.FirstOrDefault(key => !known.Contains(key)) is { } unknown)
            throw new ArgumentException($"state: '{unknown}' is not part of this model", nameof(state));
        var newStep = step ?? (layout == EmaLayout.SwaUtils ? StepAfter(Count(state)) : Step);

        using var noGrad = torch.no_grad();
        foreach (var (name, target) in targets)
            target.copy_(state[prefix + name]);
        Step = newStep;
    }

    /// <summary>Takes over one average that another library made, from a safetensors file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="layout">Whose names they are.</param>
    /// <param name="average">Which average takes them, from 0.</param>
    /// <param name="step">The optimiser steps so far, as in the overload that takes a dictionary.</param>
    /// <exception cref="StateFileException">The file is damaged, or not of this model. The averages are as they were.</exception>
    /// <exception cref="IOException">The file does not exist or cannot be read.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average or layout, or the step is negative.</exception>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>.</exception>
    public void Load(string path, EmaLayout layout, int average = 0, long? step = null)
    {
        using var file = SafetensorsFile.Open(path);
        using var scope = torch.NewDisposeScope();
        var state = file.Names.ToDictionary(name => name, file.Read);
        try
        {
            Load(state, layout, average, step);
        }
        catch (ArgumentException error) when (error is not ArgumentOutOfRangeException)
        {
            throw new StateFileException(nameof(EmaModel), path, null, error.Message, error);
        }
    }

    /// <summary>
    /// One average in another library's names, complete: parameters and buffers that are not averaged appear as the model has them, tied
    /// parameters under each of their names. The tensors are the live ones: read them, do not dispose them. <c>n_averaged</c>, where the
    /// layout has it, is a new tensor that joins the caller's dispose scope.
    /// </summary>
    /// <param name="layout">Whose names.</param>
    /// <param name="average">Which average, from 0.</param>
    /// <exception cref="ArgumentException">The model's names or shapes changed since the averages were made.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average or layout.</exception>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>.</exception>
    public IReadOnlyDictionary<string, Tensor> StateDict(EmaLayout layout, int average = 0)
    {
        RequireUsable("StateDict");
        RequireAverage(average);
        RequireLayout(layout);
        if (IsStale())
            Rebind();
        var own = StateDict(average);
        var byAddress = _averaged.Where(entry => entry.Tensor.numel() > 0).ToDictionary(
            entry => (entry.Tensor.ToTensorView().Address, entry.Tensor.numel()), entry => entry.Averages[average]);
        var prefix = layout == EmaLayout.SwaUtils ? Wrapper : "";
        var state = new Dictionary<string, Tensor>();
        if (layout == EmaLayout.SwaUtils)
            state.Add(CountKey, torch.tensor(Updates));
        foreach (var (name, tensor) in FullState())
        {
            state.Add(prefix + name, own.TryGetValue(name, out var value) ? value
                : byAddress.TryGetValue((tensor.ToTensorView(name).Address, tensor.numel()), out var tied) ? tied
                : tensor);
        }

        return state;
    }

    /// <summary>Writes one average in another library's names to a safetensors file, atomically.</summary>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="layout">Whose names.</param>
    /// <param name="average">Which average, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such average or layout.</exception>
    /// <exception cref="InvalidOperationException">Called inside <see cref="Swap"/>.</exception>
    /// <exception cref="IOException">The file cannot be written; an existing one is as it was.</exception>
    public void Save(string path, EmaLayout layout, int average = 0)
    {
        using var scope = torch.NewDisposeScope();
        SafetensorsFile.Write(path, StateDict(layout, average));
    }

    private Dictionary<string, Tensor> FullState() => _model.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter))
        .Concat(_model.named_buffers(include_nonpersistent: false).Select(entry => (entry.name, entry.buffer)))
        .ToDictionary(entry => entry.name, entry => entry.Item2);

    private long StepAfter(long updates)
    {
        var step = updates == 0 ? 0 : FirstStep + (updates - (Int128)1) * Every;
        return step <= long.MaxValue - Every
            ? (long)step
            : throw new ArgumentException($"state['{CountKey}']: {updates} updates are out of reach, averaging after step {StartAfter}");
    }

    private static void RequireFit(IReadOnlyDictionary<string, Tensor> state, string key, Tensor target)
    {
        if (!state.TryGetValue(key, out var value))
            throw new ArgumentException($"state: '{key}' is missing", nameof(state));
        if (value is null || value.IsInvalid)
            throw new ArgumentException($"state['{key}']: the tensor is null or disposed", nameof(state));
        if (!value.shape.AsSpan().SequenceEqual(target.shape))
            throw new ArgumentException(
                $"state['{key}']: shape {TensorView.Format(value.shape)} does not match {TensorView.Format(target.shape)}", nameof(state));
        if (value.is_floating_point() != target.is_floating_point())
            throw new ArgumentException($"state['{key}']: {value.dtype} does not become {target.dtype}", nameof(state));
    }

    private static long Count(IReadOnlyDictionary<string, Tensor> state)
    {
        if (!state.TryGetValue(CountKey, out var count))
            throw new ArgumentException($"state: '{CountKey}' is missing", nameof(state));
        using var scope = torch.NewDisposeScope();
        if (count is null || count.IsInvalid || count.numel() != 1 || count.dtype is not (torch.ScalarType.Int64 or torch.ScalarType.Int32)
            || count.to(torch.int64).item<long>() is not (>= 0 and <= MostUpdates and var value))
            throw new ArgumentException($"state['{CountKey}'] is not one count", nameof(state));
        return value;
    }

    private static void RequireLayout(EmaLayout layout)
    {
        if (!Enum.IsDefined(layout))
            throw new ArgumentOutOfRangeException(nameof(layout), layout, "Not a layout.");
    }
}
