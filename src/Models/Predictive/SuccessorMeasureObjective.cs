using AuxCore.Interop;
using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Parameter = TorchSharp.Modules.Parameter;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Teaches an encoder the successor measure of sets of states: proto-value networks (Farebrother et al. 2023, arXiv 2304.12567;
/// google-research, <c>pvn/offline.py</c>). Each of T tasks has a linear head from the encoder's features to A action values, which learns
/// by TD how much discounted time the uniformly random policy will spend in the task's set. The loss and its gradients come from
/// <see cref="PvnHead"/>, as one node of the graph.
/// <code>
/// using var pvn = new SuccessorMeasureObjective(encoder, RandomIndicators.Calibrate(observations, tasks: 100, rate: 0.05),
///     new() { Features = 512, Actions = 4 });
/// var optimizer = torch.optim.Adam(pvn.Parameters(), 1e-4);
/// pvn.Loss(batch, discount: 0.99).backward();  optimizer.step();  pvn.UpdateTarget();
/// </code>
/// </summary>
/// <remarks>
/// <para>Next states are encoded by a moving average of the encoder. Without a module for it, its weights are swapped into the encoder for
/// that forward pass, which raises autograd's version counters: a graph through the encoder from before the call can then not go backward
/// any more. So take this loss first, or pass a target module.</para>
/// <para>Loss and gradients of the heads are computed when the loss is, so going backward runs no code of ours that could fail. The policy
/// is the uniform one, whichever acted: no importance weights are needed. Not thread-safe.</para>
/// </remarks>
public sealed class SuccessorMeasureObjective : IDisposable
{
    private readonly Module<Tensor, Tensor> _encoder;
    private readonly SuccessorMeasureSettings _settings;
    private readonly TargetEncoder _target;
    private readonly Parameter _heads;
    private readonly Tensor _mean, _targetMean; // of the heads over actions, and its moving average: [T, F]
    private readonly EmaMixer _targetHeads;
    private bool _disposed;

    /// <summary>With random sets of states as tasks.</summary>
    /// <param name="encoder">[n, …] to [n, F]. It stays the caller's.</param>
    /// <param name="indicators">The sets. They stay the caller's.</param>
    /// <param name="settings">Sizes, conventions, rates.</param>
    /// <param name="target">
    /// A second module of the encoder's architecture, for its moving average; it begins as a copy. See the remarks.
    /// </param>
    /// <exception cref="ArgumentException">A setting is out of range, or the target's parameters do not match the encoder's.</exception>
    public SuccessorMeasureObjective(
        Module<Tensor, Tensor> encoder, RandomIndicators indicators, SuccessorMeasureSettings settings,
        Module<Tensor, Tensor>? target = null)
        : this(encoder, Required(indicators).Tasks, settings, target) => Indicators = indicators;

    /// <summary>With sets of states of one's own, given as bits with each batch.</summary>
    /// <param name="encoder">[n, …] to [n, F]. It stays the caller's.</param>
    /// <param name="tasks">T.</param>
    /// <param name="settings">Sizes, conventions, rates.</param>
    /// <param name="target">
    /// A second module of the encoder's architecture, for its moving average; it begins as a copy. See the remarks.
    /// </param>
    /// <inheritdoc cref="SuccessorMeasureObjective(Module{Tensor, Tensor}, RandomIndicators, SuccessorMeasureSettings, Module{Tensor,
    /// Tensor})" path="/exception"/>
    public SuccessorMeasureObjective(
        Module<Tensor, Tensor> encoder, int tasks, SuccessorMeasureSettings settings, Module<Tensor, Tensor>? target = null)
    {
        ArgumentNullException.ThrowIfNull(encoder);
        ArgumentNullException.ThrowIfNull(settings);
        settings.Check(nameof(settings));
        Sizes.RequirePositive((nameof(tasks), tasks));
        (_encoder, _settings, Tasks) = (encoder, settings, tasks);
        _target = new TargetEncoder(encoder, target, settings.TargetDecay);
        var device = encoder.parameters().FirstOrDefault()?.device ?? torch.CPU;
        using (var scope = torch.NewDisposeScope())
        using (var generator = new torch.Generator((uint)settings.Seed, torch.CPU))
        {
            var bound = 1 / Math.Sqrt(settings.Features);
            var values = torch.rand([tasks, settings.Actions, settings.Features], generator: generator).mul(2 * bound).sub(bound);
            _heads = new Parameter(values.to(device).DetachFromDisposeScope());
            _heads.DetachFromDisposeScope();
            _mean = torch.empty(tasks, settings.Features, device: device).DetachFromDisposeScope();
            _targetMean = torch.empty(tasks, settings.Features, device: device).DetachFromDisposeScope();
        }

        _targetHeads = new EmaMixer([(_mean, _targetMean)]);
        FollowHeads(0);
    }

    /// <summary>The sets; null where they come with each batch.</summary>
    public RandomIndicators? Indicators { get; }

    /// <summary>T.</summary>
    public int Tasks { get; }

    /// <summary>[T, A, F], float32: the heads. Live: do not dispose it.</summary>
    public Parameter Heads => _heads;

    /// <summary>[T, F]: the moving average of the heads' mean over actions.</summary>
    internal Tensor TargetHeads => _targetMean;

    /// <summary>Where the loss runs: Auto takes what fits the tensors' memory; a named backend runs or throws.</summary>
    public AuxBackend Backend { get; set; }

    /// <summary>
    /// Whether a loss that is not finite throws, naming tensor and row, instead of being returned. On a device that waits for the loss.
    /// </summary>
    public bool CheckFinite { get; set; }

    /// <summary>What an optimiser trains: the encoder's parameters, then the heads.</summary>
    public IEnumerable<Parameter> Parameters() => _encoder.parameters().Append(_heads);

    /// <summary>
    /// The loss of a batch: mean ½ (Q − y)² over transitions and tasks, y = r + γ (1 − done) · mean over a′ of Q̄(s′, a′).
    /// </summary>
    /// <param name="batch">Transitions of any policy: observations [B, …], actions int64 [B], next observations, done bool [B].</param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <returns>A float32 scalar with history. NaN where an input is.</returns>
    /// <exception cref="ArgumentException">A tensor does not fit; the message names it.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action, or the discount, is out of range.</exception>
    /// <exception cref="InvalidOperationException">The tasks are one's own: pass their bits.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, or the objective, was disposed.</exception>
    public Tensor Loss(TransitionBatch batch, double discount)
    {
        var sets = Indicators ?? throw new InvalidOperationException("Loss: no random sets were given, so each batch needs its bits");
        Check(batch, discount);
        using var scope = torch.NewDisposeScope();
        return Loss(batch, sets.Views(Counted(batch)), discount).MoveToOuterDisposeScope();
    }

    /// <summary>The loss of a batch with sets of one's own, or whose bits were computed before.</summary>
    /// <param name="batch">Transitions of any policy.</param>
    /// <param name="bits">
    /// [B, <see cref="Kernels.Indicators.BytesPerState"/>(T)], uint8: which sets each current state is in, or each next one
    /// (<see cref="SuccessorMeasureSettings.Start"/>).
    /// </param>
    /// <param name="discount">γ, within [0, 1).</param>
    /// <inheritdoc cref="Loss(TransitionBatch, double)" path="/returns"/>
    /// <inheritdoc cref="Loss(TransitionBatch, double)" path="/exception"/>
    public Tensor Loss(TransitionBatch batch, Tensor bits, double discount)
    {
        Check(batch, discount);
        Batches.Require(bits, nameof(bits));
        using var scope = torch.NewDisposeScope();
        return Loss(batch, IndicatorViews.Packed(bits.contiguous().ToTensorView(nameof(bits))), discount).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Moves the target encoder and the target heads towards what is trained; after each optimiser step. The published code does so with
    /// the parameters from before the step: for that, call it before.
    /// </summary>
    /// <exception cref="ObjectDisposedException">The objective was disposed.</exception>
    public void UpdateTarget()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _target.Update();
        FollowHeads(_settings.TargetDecay);
    }

    /// <summary>What the heads predict: the successor measure of each set, for each action.</summary>
    /// <param name="observations">[n, …].</param>
    /// <returns>[n, T, A], float32, without history.</returns>
    /// <exception cref="ArgumentException">The encoder's features do not fit.</exception>
    /// <exception cref="ObjectDisposedException">The observations, or the objective, were disposed.</exception>
    public Tensor Values(Tensor observations)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Batches.Require(observations, nameof(observations));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var features = Features(_encoder.forward(observations), observations.shape[0]);
        var flat = features.mm(_heads.view(-1, _settings.Features).t());
        return flat.view(-1, Tasks, _settings.Actions).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the heads and the averages; encoder, target and sets stay.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _target.Dispose();
        _targetHeads.Dispose();
        _heads.Dispose();
        _mean.Dispose();
        _targetMean.Dispose();
    }

    private Tensor Counted(TransitionBatch batch) => _settings.Start == Start.Next ? batch.NextObservations : batch.Observations;

    private Tensor Loss(TransitionBatch batch, in IndicatorViews sets, double discount)
    {
        var n = batch.Actions.shape[0];
        var next = Features(_target.Forward(batch.NextObservations), n);
        var features = Features(_encoder.forward(batch.Observations), n);
        var (featureGradient, headGradient) = (torch.empty_like(features), torch.empty_like(_heads));
        var loss = torch.empty(1, dtype: torch.float64, device: features.device);
        using (torch.no_grad())
        {
            var actions = batch.Actions.to(torch.int32);
            var done = batch.Done.contiguous();
            var outputs = new PvnOutputs
            {
                FeatureGradient = featureGradient.ToTensorView(),
                WeightGradient = headGradient.ToTensorView(),
                Loss = loss.ToTensorView(),
                RowLosses = torch.empty(n, dtype: torch.float64, device: features.device).ToTensorView(),
            };
            PvnHead.Run(
                features.detach().ToTensorView("features"), next.ToTensorView("nextFeatures"), _heads.ToTensorView("heads"),
                _targetMean.ToTensorView("targetMean"), actions.ToTensorView("actions"), done.ToTensorView("done"), sets, discount,
                _settings.Start, _settings.Normalised, outputs, Workspace(features), backend: Backend);
            if (CheckFinite && !double.IsFinite(loss.item<double>()))
                RefuseNonFinite(features, next, done);
        }

        return AttachedLoss.Create(loss.squeeze(0), (features, featureGradient), (_heads, headGradient));
    }

    // Float32 and contiguous; through autograd, where there is history.
    private Tensor Features(Tensor features, long rows)
    {
        if (!features.is_floating_point() || features.shape.Length != 2 || features.shape[0] != rows
            || features.shape[1] != _settings.Features)
        {
            throw new ArgumentException(
                $"encoder: it makes {Batches.Describe(features)} of {rows} observations, not [{rows}, {_settings.Features}]");
        }

        return features.to(torch.float32).contiguous();
    }

    private void FollowHeads(double decay)
    {
        using (torch.no_grad())
            PvnHead.MeanOverActions(_heads.ToTensorView("heads"), _mean.ToTensorView());
        _targetHeads.Update(decay);
    }

    private TensorView Workspace(Tensor features)
    {
        if (features.device_type == DeviceType.CPU)
            return default;
        var bytes = PvnHead.WorkspaceBytes(
            checked((int)features.shape[0]), new(checked((int)_settings.Features), Tasks, _settings.Actions));
        return torch.empty(bytes, dtype: torch.uint8, device: features.device).ToTensorView();
    }

    private void RefuseNonFinite(Tensor features, Tensor next, Tensor done)
    {
        NonFiniteRows.Refuse(features, "features");
        NonFiniteRows.Refuse(next.masked_fill(done.to(torch.@bool).unsqueeze(1), 0), "nextFeatures");
        NonFiniteRows.Refuse(_heads.view(-1, _settings.Features), "heads");
        NonFiniteRows.Refuse(_targetMean, "targetMean");
        throw new ArgumentException("the loss is not finite, though features and heads are: a set's feature or threshold is NaN, or the "
            + "values are too large for float32");
    }

    private void Check(TransitionBatch batch, double discount)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        SuccessorArguments.CheckDiscount(discount);
        Batches.Check(batch, _settings.Actions);
    }

    private static RandomIndicators Required(RandomIndicators indicators)
    {
        ArgumentNullException.ThrowIfNull(indicators);
        return indicators;
    }
}

/// <summary>Sizes, conventions and rates of a <see cref="SuccessorMeasureObjective"/>.</summary>
public sealed record SuccessorMeasureSettings
{
    /// <summary>F: the length of the encoder's output.</summary>
    public required long Features { get; init; }

    /// <summary>A: the number of actions.</summary>
    public required int Actions { get; init; }

    /// <summary>
    /// Whether the current state counts (the default, as published), or only those after it. It names the states that the sets are of.
    /// </summary>
    public Start Start { get; init; } = Start.Current;

    /// <summary>Whether the measure is multiplied by 1 − γ, so that it lies within 0 and 1.</summary>
    public bool Normalised { get; init; }

    /// <summary>β of the target's moving average, within [0, 1); 0.99 as published.</summary>
    public double TargetDecay { get; init; } = 0.99;

    /// <summary>Seeds the heads; libtorch's own generator is left alone.</summary>
    public int Seed { get; init; }

    internal void Check(string name)
    {
        Sizes.RequirePositive(($"{name}.{nameof(Features)}", Features), ($"{name}.{nameof(Actions)}", Actions));
        if (Features > int.MaxValue)
            throw new ArgumentOutOfRangeException(name, Features, $"{name}.Features: at most {int.MaxValue}.");
        SuccessorArguments.CheckStart(Start);
        if (!(TargetDecay is >= 0 and < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(name, TargetDecay, $"{name}.TargetDecay: a decay lies within [0, 1).");
    }
}
