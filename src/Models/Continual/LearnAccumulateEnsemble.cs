using AuxCore.Interop;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Class-incremental learning on a frozen backbone (Gao et al., ICCV 2023, arXiv 2303.10070; <c>gqk/LAE</c>). An online expert, a few small
/// modules in the backbone, learns task after task; an offline expert, a moving average of it, accumulates what stays; both predict, and
/// for each class the larger probability counts.
/// <code>
/// using var lae = new LearnAccumulateEnsemble&lt;Adapters&gt;(() => new Adapters(), (expert, x) => backbone.Features(x, expert), 768);
/// foreach (var task in tasks)
/// {
///     lae.BeginTask(task.Classes);
///     using var optimizer = new AdamW(lae.Parameters, lr: 1e-3);
///     foreach (var (x, y) in task) { optimizer.zero_grad(); lae.Backward(x, y); optimizer.step(); lae.Accumulate(); }
/// }
/// var classes = lae.Predict(images).argmax(1);
/// </code>
/// </summary>
/// <remarks>
/// The loss is the cross-entropy over the current task's classes alone, so classifiers of earlier tasks stay as they are. The offline
/// expert begins at the second task as a copy. Classifiers are common to both experts. Not thread-safe.
/// </remarks>
/// <typeparam name="TExpert">A module with what an expert learns: adapters, LoRA, prefixes.</typeparam>
public sealed class LearnAccumulateEnsemble<TExpert> : IDisposable where TExpert : Module
{
    private readonly Func<TExpert> _create;
    private readonly Func<TExpert, Tensor, Tensor> _features;
    private readonly long _featureSize;
    private readonly LearnAccumulateEnsembleOptions _options;
    private readonly List<Linear> _heads = [];
    private readonly Parameter[] _learning; // of the online expert, those that require grad
    private EmaMixer? _mixer;
    private (Tensor Source, Tensor Copy)[] _copied = []; // buffers that are no floating-point numbers
    private bool _disposed;

    /// <summary>An online expert that knows no class yet.</summary>
    /// <param name="create">Makes an expert; called now for the online one and at the second task for the offline one.</param>
    /// <param name="features">The frozen backbone with an expert in it: input to features [n, featureSize], float32.</param>
    /// <param name="featureSize">The length of the features.</param>
    /// <param name="options">Decay and freezing.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size or an option is out of range.</exception>
    public LearnAccumulateEnsemble(
        Func<TExpert> create, Func<TExpert, Tensor, Tensor> features, long featureSize, LearnAccumulateEnsembleOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(create);
        ArgumentNullException.ThrowIfNull(features);
        ArgumentOutOfRangeException.ThrowIfLessThan(featureSize, 1);
        _options = options ?? new();
        _options.Check(nameof(options));
        (_create, _features, _featureSize) = (create, features, featureSize);
        Online = create() ?? throw new ArgumentException("create: it returned null", nameof(create));
        _learning = [.. Online.parameters().Where(parameter => parameter.requires_grad)];
    }

    /// <summary>The expert that learns.</summary>
    public TExpert Online { get; }

    /// <summary>The expert that accumulates; null before the second task.</summary>
    public TExpert? Offline { get; private set; }

    /// <summary>Tasks begun.</summary>
    public int Tasks => _heads.Count;

    /// <summary>Classes of all tasks begun; labels are numbered through them in the order of tasks.</summary>
    public int Classes { get; private set; }

    /// <summary>Steps of the current task.</summary>
    public long Steps { get; private set; }

    /// <summary>Whether at this step only the new classifier learns.</summary>
    public bool IsFrozen => Tasks > 1 && Steps < _options.FreezeSteps;

    /// <summary>Where the average is updated: Auto takes what fits the tensors' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>What the optimiser of the current task is made for: the online expert and the new classifier, by name.</summary>
    /// <exception cref="InvalidOperationException">No task was begun.</exception>
    public IEnumerable<(string name, Parameter parameter)> Parameters
    {
        get
        {
            RequireTask();
            return
            [
                .. Online.named_parameters().Where(entry => _learning.Contains(entry.parameter))
                    .Select(entry => ("online." + entry.name, entry.parameter)),
                .. _heads[^1].named_parameters().Select(entry => ($"heads.{Tasks - 1}.{entry.name}", entry.parameter)),
            ];
        }
    }

    /// <summary>Begins a task with a classifier of its own; at the second one the offline expert begins, as a copy.</summary>
    /// <param name="classes">How many classes the task brings, at least 1.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="classes"/> is below 1.</exception>
    /// <exception cref="ArgumentException">Another expert has other parameters than the first one.</exception>
    public void BeginTask(int classes)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfLessThan(classes, 1);
        if (Tasks == 1)
            MakeOffline();
        foreach (var head in _heads)
        {
            foreach (var parameter in head.parameters())
                parameter.requires_grad_(false);
        }

        _heads.Add(Linear(_featureSize, classes));
        Classes += classes;
        Steps = 0;
        Thaw(!IsFrozen);
    }

    /// <summary>Adds the gradients of the current task's cross-entropy to those of the parameters.</summary>
    /// <param name="input">A batch, as the backbone takes it.</param>
    /// <param name="labels">Its classes, [n], int64, all of the current task: from Classes − classes of the task to Classes − 1.</param>
    /// <returns>The loss, a scalar without history.</returns>
    /// <exception cref="ArgumentException">Labels or features are of another shape or dtype, or labels of another task.</exception>
    /// <exception cref="InvalidOperationException">No task was begun, or grad mode is off.</exception>
    public Tensor Backward(Tensor input, Tensor labels)
    {
        RequireTask();
        Tokens.RequireLive(input, nameof(input));
        Sizes.RequireColumn(labels, labels?.IsInvalid == false && labels.shape.Length == 1 ? labels.shape[0] : -1, nameof(labels),
            torch.ScalarType.Int64);
        if (!torch.is_grad_enabled())
            throw new InvalidOperationException("LearnAccumulateEnsemble.Backward computes gradients: call it outside of torch.no_grad().");
        using var scope = torch.NewDisposeScope();
        var head = _heads[^1];
        var first = Classes - head.weight.shape[0];
        var local = labels! - first;
        if (local.numel() == 0 || local.min().item<long>() < 0 || local.max().item<long>() >= head.weight.shape[0])
            throw new ArgumentException($"labels: not all are classes {first} to {Classes - 1} of the current task", nameof(labels));

        var features = Features(Online, input);
        if (features.shape[0] != labels!.shape[0])
            throw new ArgumentException($"labels: {labels.shape[0]} for {features.shape[0]} rows of features", nameof(labels));
        var loss = functional.cross_entropy(head.forward(features), local);
        loss.backward();
        return loss.detach().MoveToOuterDisposeScope();
    }

    /// <summary>After the optimiser's step: the offline expert follows, where there is one, and the step is counted.</summary>
    /// <exception cref="InvalidOperationException">No task was begun.</exception>
    /// <exception cref="BackendUnavailableException">The named <see cref="Backend"/> does not run here; nothing was changed.</exception>
    public void Accumulate()
    {
        RequireTask();
        if (_mixer is not null)
        {
            _mixer.Backend = Backend;
            _mixer.Update(_options.Decay);
            using var noGrad = torch.no_grad();
            foreach (var (source, copy) in _copied)
                copy.copy_(source);
        }

        Steps++;
        Thaw(!IsFrozen);
    }

    /// <summary>Probabilities of all classes so far.</summary>
    /// <param name="input">A batch, as the backbone takes it.</param>
    /// <param name="expert">Whose; the ensemble's are maxima and do not sum to 1.</param>
    /// <returns>[n, <see cref="Classes"/>], without history.</returns>
    /// <exception cref="ArgumentException">The features are of another shape or dtype.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such expert.</exception>
    /// <exception cref="InvalidOperationException">No task was begun.</exception>
    public Tensor Predict(Tensor input, LaeExpert expert = LaeExpert.Ensemble)
    {
        RequireTask();
        Tokens.RequireLive(input, nameof(input));
        if (!Enum.IsDefined(expert))
            throw new ArgumentOutOfRangeException(nameof(expert), expert, "Not an expert.");
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var probabilities = expert switch
        {
            LaeExpert.Online => Probabilities(Online, input),
            LaeExpert.Offline => Probabilities(Offline ?? Online, input),
            _ when Offline is null => Probabilities(Online, input),
            _ => torch.maximum(Probabilities(Online, input), Probabilities(Offline, input)),
        };
        return probabilities.MoveToOuterDisposeScope();
    }

    /// <summary>Frees experts and classifiers; the backbone is the caller's.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _mixer?.Dispose();
        Online.Dispose();
        Offline?.Dispose();
        foreach (var head in _heads)
            head.Dispose();
    }

    private void MakeOffline()
    {
        var offline = _create() ?? throw new ArgumentException("create: it returned null");
        var pairs = Named(Online).Zip(Named(offline)).ToArray();
        var same = Named(Online).Select(Text).SequenceEqual(Named(offline).Select(Text))
            && !pairs.Any(pair => ReferenceEquals(pair.First.Tensor, pair.Second.Tensor));
        if (!same)
            throw new ArgumentException("create: it has to make a new expert of the same parameters and buffers at each call");

        using var noGrad = torch.no_grad();
        foreach (var ((_, source), (_, copy)) in pairs)
        {
            if (copy.is_leaf)
                copy.requires_grad_(false);
            copy.copy_(source);
        }

        offline.train(Online.training);
        var mixed = pairs.ToLookup(pair => pair.First.Tensor.is_floating_point(), pair => (pair.First.Tensor, pair.Second.Tensor));
        _mixer = new([.. mixed[true]]);
        _copied = [.. mixed[false]];
        Offline = offline;

        static string Text((string Name, Tensor Tensor) entry) =>
            $"{entry.Name} {entry.Tensor.dtype}{TensorView.Format(entry.Tensor.shape)}";
    }

    private Tensor Probabilities(TExpert expert, Tensor input)
    {
        var features = Features(expert, input);
        return functional.softmax(torch.cat([.. _heads.Select(head => head.forward(features))], 1), 1);
    }

    private Tensor Features(TExpert expert, Tensor input)
    {
        var features = _features(expert, input);
        Sizes.RequireRows(features, _featureSize, "features");
        return features;
    }

    private void Thaw(bool thawed)
    {
        foreach (var parameter in _learning)
            parameter.requires_grad_(thawed);
    }

    private void RequireTask()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (Tasks == 0)
            throw new InvalidOperationException("LearnAccumulateEnsemble: BeginTask comes first.");
    }

    private static List<(string Name, Tensor Tensor)> Named(Module module) =>
        [
            .. module.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter)),
            .. module.named_buffers().Select(entry => (entry.name, entry.buffer)),
        ];
}
