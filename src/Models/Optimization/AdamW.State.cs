using System.Globalization;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <content>
/// State in safetensors: the tensors <c>exp_avg.NAME</c>, <c>exp_avg_sq.NAME</c>, <c>master.NAME</c> for 16-bit parameters, <c>steps</c>
/// (int64, one a parameter), with averages <c>ema.KEY</c> for each key of <see cref="EmaModel.Save(string)"/>, and what the metadata keys
/// below say. A parameter without a name is called by the numbers of its group and its place there: <c>0.3</c>.
/// </content>
public sealed partial class AdamW
{
    private static readonly StateFile Checks = new(nameof(AdamW), "optimiser");

    private const string FormatKey = "auxcore.format";
    private const string Format = "adamw/1";
    private const string CountersKey = "auxcore.counters"; // steps, skipped, not finite
    private const string DecoupledKey = "auxcore.decoupled";
    private const string GroupsKey = "auxcore.groups";
    private const string ScalerKey = "auxcore.scaler";
    private const string AveragesKey = "auxcore.ema.averages";
    private const string AveragesStepKey = "auxcore.ema.step";
    private const string AveragesPrefix = "ema.";
    private const string StepsName = "steps";

    /// <summary>
    /// Writes moments, masters, counts of steps, the groups' hyper-parameters, the scaler's state and the averages to a safetensors file,
    /// atomically. The model's own weights are not in it. Training that continues from <see cref="Load"/> and the same weights gives the
    /// same bits as training that was never interrupted.
    /// </summary>
    /// <param name="path">The file to create or replace.</param>
    /// <exception cref="InvalidOperationException">
    /// Passes are being accumulated (their gradients are not kept), or the averages are swapped into the model.
    /// </exception>
    /// <exception cref="IOException">The file cannot be written; an existing one is as it was.</exception>
    public void Save(string path)
    {
        var tensors = StateTensors("AdamW.Save");
        var metadata = new Dictionary<string, string>
        {
            [FormatKey] = Format,
            [CountersKey] = string.Create(CultureInfo.InvariantCulture, $"{Steps} {SkippedSteps} {NonFiniteSteps}"),
            [DecoupledKey] = Decoupled.ToString(),
            [GroupsKey] = _parameter_groups.Count.ToString(CultureInfo.InvariantCulture),
        };
        for (var i = 0; i < _parameter_groups.Count; i++)
            metadata[GroupKey(i)] = GroupText.Of((Options)_parameter_groups[i].Options, ParametersOf(i));
        if (Scaler is not null)
            metadata[ScalerKey] = Scaler.State;
        if (Averages is not null)
        {
            metadata[AveragesKey] = Averages.AverageCount.ToString(CultureInfo.InvariantCulture);
            metadata[AveragesStepKey] = Averages.Step.ToString(CultureInfo.InvariantCulture);
        }

        using var steps = torch.tensor(_states.Select(state => state.Step).ToArray());
        tensors.Add(new(StepsName, steps));
        SafetensorsFile.Write(path, tensors, metadata);
    }

    /// <summary>Reads what <see cref="Save"/> wrote. The model's weights are not touched.</summary>
    /// <param name="path">
    /// A file of this format, for parameters of the same names, shapes and kinds of types, with averages where this optimiser has them, and
    /// with a scaler where it has one.
    /// </param>
    /// <exception cref="StateFileException">
    /// The file is torn or damaged, of another format, or of another optimiser or model; the message names the key. Moments, averages and
    /// everything else are as they were.
    /// </exception>
    /// <exception cref="InvalidOperationException">Passes are being accumulated, or the averages are swapped into the model.</exception>
    /// <exception cref="IOException">The file does not exist or cannot be read.</exception>
    public void Load(string path) => LoadIf(path, steps: null);

    /// <summary>The same, for an owner whose own file says how many steps were taken: another number in this file is an error.</summary>
    internal void LoadIf(string path, long? steps)
    {
        var tensors = StateTensors("AdamW.Load");
        using var file = SafetensorsFile.Open(path);
        var restore = new List<Action>();
        Checks.Require(file, path, FormatKey, Format);
        Checks.Require(file, path, DecoupledKey, Decoupled.ToString());
        Checks.Require(file, path, GroupsKey, _parameter_groups.Count.ToString(CultureInfo.InvariantCulture));
        for (var i = 0; i < _parameter_groups.Count; i++)
            restore.Add(RestoringGroup(file, path, i));
        restore.Add(RestoringCounters(file, path, steps));
        restore.Add(RestoringScaler(file, path));
        restore.Add(RestoringAverages(file, path));

        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        tensors.Add(new(StepsName, torch.zeros(_states.Count, torch.ScalarType.Int64)));
        Checks.RequireTensors(file, path, [.. tensors.Select(entry => (entry.Key, entry.Value))]);
        var read = tensors.ConvertAll(entry => file.Read(entry.Key)); // all, before anything changes: the disk may fail half way
        var counts = read[^1].data<long>().ToArray();
        if (counts.Any(count => count < 0))
            throw Checks.Foreign(path, StepsName, "has a negative count");

        foreach (var ((_, tensor), value) in tensors.Zip(read))
            tensor.copy_(value);
        foreach (var (state, step) in _states.Zip(counts))
            state.Step = step;
        restore.ForEach(action => action());
    }

    private List<KeyValuePair<string, Tensor>> StateTensors(string operation)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        RequireNothingPending(operation);
        FollowReplaced();
        var tensors = new List<KeyValuePair<string, Tensor>>();
        foreach (var state in _states)
        {
            tensors.Add(new($"exp_avg.{state.Name}", state.FirstMoment));
            tensors.Add(new($"exp_avg_sq.{state.Name}", state.SecondMoment));
            if (state.Master is not null)
                tensors.Add(new($"master.{state.Name}", state.Master));
        }

        if (Averages is not null)
            tensors.AddRange(Averages.StateTensors(operation).Select(entry =>
                KeyValuePair.Create(AveragesPrefix + entry.Key, entry.Value)));
        return tensors;
    }

    private int ParametersOf(int group) => _states.Count(state => state.Group == group);

    private static string GroupKey(int group) => string.Create(CultureInfo.InvariantCulture, $"auxcore.group.{group}");

    private Action RestoringGroup(SafetensorsReader file, string path, int group)
    {
        if (GroupText.Parse(Checks.Metadata(file, path, GroupKey(group))) is not { } read)
            throw Checks.Foreign(path, GroupKey(group), "is not a group's hyper-parameters");
        if (read.Parameters != ParametersOf(group))
            throw Checks.Foreign(
                path, GroupKey(group), $"has {read.Parameters} parameters, but this optimiser's has {ParametersOf(group)}");
        try
        {
            Settings(read.Options, step: 1).Check("options");
        }
        catch (ArgumentOutOfRangeException error)
        {
            throw Checks.Foreign(path, GroupKey(group), $"is out of range: {error.Message}");
        }

        return () => _parameter_groups[group].Options.LoadStateDict(read.Options);
    }

    private Action RestoringCounters(SafetensorsReader file, string path, long? expected)
    {
        var counts = Checks.Metadata(file, path, CountersKey).Split(' ')
            .Select(text => long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var count) ? count : -1).ToArray();
        if (expected is { } steps && counts[0] != steps)
            throw Checks.Foreign(path, CountersKey, $"says {counts[0]} steps, but the file beside it {steps}");
        return counts is [>= 0, >= 0, >= 0]
            ? () => (Steps, SkippedSteps, NonFiniteSteps) = (counts[0], counts[1], counts[2])
            : throw Checks.Foreign(path, CountersKey, "is not three counts");
    }

    private Action RestoringScaler(SafetensorsReader file, string path)
    {
        if (Scaler is null != !file.Metadata.ContainsKey(ScalerKey))
            throw Checks.Foreign(path, ScalerKey, Scaler is null ? "is there, but this optimiser has no Scaler"
                : "is missing; it was saved without a Scaler");
        return Scaler is null
            ? () => { }
        : Scaler.Restoring(file.Metadata[ScalerKey]) ?? throw Checks.Foreign(path, ScalerKey, "is not a scaler's state");
    }

    private Action RestoringAverages(SafetensorsReader file, string path)
    {
        if (Averages is not { } averages)
        {
            return file.Metadata.ContainsKey(AveragesKey)
                ? throw Checks.Foreign(path, AveragesKey, "is there, but this optimiser has no Averages")
                : () => { };
        }

        Checks.Require(file, path, AveragesKey, averages.AverageCount.ToString(CultureInfo.InvariantCulture));
        return long.TryParse(Checks.Metadata(file, path, AveragesStepKey), NumberStyles.None, CultureInfo.InvariantCulture, out var step)
            ? () => averages.RestoreStep(step)
            : throw Checks.Foreign(path, AveragesStepKey, "is not a count of steps");
    }

    /// <summary>A group's hyper-parameters in one line, exactly.</summary>
    private static class GroupText
    {
        public static string Of(Options options, int parameters) => string.Create(
            CultureInfo.InvariantCulture,
            $"parameters={parameters} lr={options.LearningRate:R} initial_lr={options.InitialLearningRate:R} beta1={options.Beta1:R} "
            + $"beta2={options.Beta2:R} eps={options.Epsilon:R} weight_decay={options.WeightDecay:R} maximize={options.Maximize}");

        public static (Options Options, int Parameters)? Parse(string text)
        {
            var values = new Dictionary<string, string>();
            foreach (var part in text.Split(' '))
            {
                if (part.Split('=') is not [var key, var value] || !values.TryAdd(key, value))
                    return null;
            }

            double? Number(string key) =>
                values.Remove(key, out var value)
                && double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out var number)
                    ? number
                    : null;
            var options = new Options
            {
                LearningRate = Number("lr"), Beta1 = Number("beta1"), Beta2 = Number("beta2"), Epsilon = Number("eps"),
                WeightDecay = Number("weight_decay"),
                Maximize = values.Remove("maximize", out var maximize) && bool.TryParse(maximize, out var flag) ? flag : null,
            };
            var (initial, parameters) = (Number("initial_lr"), Number("parameters"));
            options.InitialLearningRate = initial ?? 0;
            double?[] all = [options.LearningRate, options.Beta1, options.Beta2, options.Epsilon, options.WeightDecay, initial, parameters];
            return values.Count == 0 && options.Maximize is not null && all.All(number => number is { } n && double.IsFinite(n))
                ? (options, (int)parameters!.Value)
                : null;
        }
    }
}
