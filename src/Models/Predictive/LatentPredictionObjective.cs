using TorchSharp;
using static TorchSharp.torch.nn;
using Parameter = TorchSharp.Modules.Parameter;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Prediction of future latent states as an auxiliary objective, after Fang and Stachenfeld (ICLR 2024, arXiv 2310.06089, "Predictive
/// auxiliary objectives in deep RL mimic learning in the brain"). A transition module τ(z, a) learns what the discounted sum of the latent
/// states after z will be, L₊ = mean ‖τ(z, a) − z̄′ − γ (1 − done) τ̄(z̄′, a′)‖², and L₋ = mean exp(−‖z_i − z_j‖) over states i, j of the
/// batch keeps latent states apart, without which predicting is easiest where all of them are the same.
/// <code>
/// using var prediction = new LatentPredictionObjective(encoder, new() { Latent = 8, Actions = 4, Horizon = 0.8 });
/// var optimizer = torch.optim.Adam(prediction.Parameters().Concat(head.parameters()), 1e-3);
/// (prediction.Loss(batch, nextActions) + valueLoss).backward();  optimizer.step();  prediction.UpdateTarget();
/// </code>
/// </summary>
/// <remarks>
/// <para>Horizon 0 predicts the next latent state only; with a horizon γ, τ learns the latent states' successor features. The paper's text
/// was at hand in abstract and reviews only: that L₊ has a term of the next step is from there, and so is the purpose of L₋; their exact
/// forms are not. Here targets (barred) come from moving averages and carry no gradient; they fade with <c>TargetDecay</c>, and 0 makes
/// them copies.</para>
/// <para>Latent states are averaged over their length, so that the loss does not grow with it. About the encoder's moving average, see
/// <see cref="SuccessorMeasureObjective"/>: take this loss first, or pass a target module. Not thread-safe.</para>
/// </remarks>
public sealed class LatentPredictionObjective : IDisposable
{
    private readonly Module<Tensor, Tensor> _encoder;
    private readonly LatentPredictionSettings _settings;
    private readonly TransitionModel _transition, _targetTransition;
    private readonly TargetEncoder _target;
    private readonly EmaMixer _targetMixer;
    private readonly torch.Generator _generator;
    private bool _disposed;

    /// <summary>With a transition module of its own.</summary>
    /// <param name="encoder">[n, …] to [n, latent], float32. It stays the caller's.</param>
    /// <param name="settings">Sizes, horizon, weights.</param>
    /// <param name="target">A second module of the encoder's architecture, for its moving average; it begins as a copy.</param>
    /// <exception cref="ArgumentException">A setting is out of range, or the target's parameters do not match the encoder's.</exception>
    public LatentPredictionObjective(
        Module<Tensor, Tensor> encoder, LatentPredictionSettings settings, Module<Tensor, Tensor>? target = null)
    {
        ArgumentNullException.ThrowIfNull(encoder);
        ArgumentNullException.ThrowIfNull(settings);
        settings.Check(nameof(settings));
        (_encoder, _settings) = (encoder, settings);
        var device = encoder.parameters().FirstOrDefault()?.device ?? torch.CPU;
        _generator = new torch.Generator((uint)settings.Seed, torch.CPU);
        _target = new TargetEncoder(encoder, target, settings.TargetDecay);
        _transition = new TransitionModel(settings, _generator, device);
        _targetTransition = new TransitionModel(settings, _generator, device);
        var pairs = _transition.parameters().Zip(
            _targetTransition.parameters(), (source, average) => ((Tensor)source, (Tensor)average.requires_grad_(false)));
        _targetMixer = new EmaMixer([.. pairs]);
        _targetMixer.Update(0); // it begins as a copy
    }

    /// <summary>L₊ and L₋ of the last loss, before their weights.</summary>
    public (double Prediction, double Separation) Terms { get; private set; }

    /// <summary>What an optimiser trains: the encoder's parameters, then the transition module's.</summary>
    public IEnumerable<Parameter> Parameters() => _encoder.parameters().Concat(_transition.parameters());

    /// <summary>The loss of a batch, weighted: PredictionWeight · L₊ + SeparationWeight · L₋.</summary>
    /// <param name="batch">
    /// Transitions: observations [n, …], actions int64 [n], next observations, done bool [n]. n is at least 2, because states are paired.
    /// </param>
    /// <param name="nextActions">a′ [n], int64: what the policy does, or would do, in the next states.</param>
    /// <returns>A float32 scalar with history. NaN where an input is.</returns>
    /// <exception cref="ArgumentException">A tensor does not fit; the message names it.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action is out of range.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, or the objective, was disposed.</exception>
    public Tensor Loss(TransitionBatch batch, Tensor nextActions)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Batches.Check(batch, _settings.Actions);
        var n = batch.Actions.shape[0];
        if (n < 2)
            throw new ArgumentException($"{n} transitions; pairs of different ones are needed, so at least 2", nameof(batch));
        Batches.RequireActions(nextActions, n, _settings.Actions, nameof(nextActions));

        using var scope = torch.NewDisposeScope();
        Tensor target;
        using (torch.no_grad())
        {
            var next = Latent(_target.Forward(batch.NextObservations), n);
            var later = _targetTransition.forward(next, nextActions);
            var ended = batch.Done.to(torch.@bool).unsqueeze(1);
            target = next + later.mul(_settings.Horizon).masked_fill(ended, 0);
        }

        var latent = Latent(_encoder.forward(batch.Observations), n);
        var prediction = (_transition.forward(latent, batch.Actions) - target).square().mean();
        var separation = Separation(latent);
        Terms = (prediction.item<float>(), separation.item<float>());
        return (prediction * _settings.PredictionWeight + separation * _settings.SeparationWeight).MoveToOuterDisposeScope();
    }

    /// <summary>What τ predicts.</summary>
    /// <param name="observations">[n, …].</param>
    /// <param name="actions">[n], int64.</param>
    /// <returns>[n, latent], without history.</returns>
    /// <exception cref="ArgumentException">A tensor does not fit.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action is out of range.</exception>
    /// <exception cref="ObjectDisposedException">A tensor, or the objective, was disposed.</exception>
    public Tensor Predict(Tensor observations, Tensor actions)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Batches.Require(observations, nameof(observations));
        if (observations.shape.Length < 1 || observations.shape[0] < 1)
            throw new ArgumentException($"observations: {Batches.Describe(observations)} has no rows", nameof(observations));
        var n = observations.shape[0];
        Batches.RequireActions(actions, n, _settings.Actions, nameof(actions));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        return _transition.forward(Latent(_encoder.forward(observations), n), actions).MoveToOuterDisposeScope();
    }

    /// <summary>Moves the targets towards what is trained; after each optimiser step.</summary>
    /// <exception cref="ObjectDisposedException">The objective was disposed.</exception>
    public void UpdateTarget()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _target.Update();
        _targetMixer.Update(_settings.TargetDecay);
    }

    /// <summary>Frees the transition module and the averages; the encoder and its target stay.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _target.Dispose();
        _targetMixer.Dispose();
        _transition.Dispose();
        _targetTransition.Dispose();
        _generator.Dispose();
    }

    // Each state with the one that stands a random number of places behind it: n pairs, never of a row with itself.
    private Tensor Separation(Tensor latent)
    {
        var n = latent.shape[0];
        var shift = torch.randint(1, n, [1], generator: _generator).item<long>();
        var difference = latent - latent.roll(shift, 0);
        return difference.norm(1).neg().exp().mean();
    }

    private Tensor Latent(Tensor latent, long rows)
    {
        if (latent.dtype != torch.float32 || latent.shape.Length != 2 || latent.shape[0] != rows || latent.shape[1] != _settings.Latent)
        {
            throw new ArgumentException(
                $"encoder: it makes {Batches.Describe(latent)} of {rows} observations, not Float32[{rows}, {_settings.Latent}]");
        }

        return latent;
    }

    /// <summary>
    /// τ: [z, one-hot a] through a hidden layer. Initialised as libtorch's linear layers are, from a generator of its own.
    /// </summary>
    private sealed class TransitionModel : Module<Tensor, Tensor, Tensor>
    {
        private readonly Parameter _first, _firstBias, _second, _secondBias;
        private readonly int _actions;

        public TransitionModel(LatentPredictionSettings settings, torch.Generator generator, torch.Device device)
            : base(nameof(TransitionModel))
        {
            _actions = settings.Actions;
            var inputs = settings.Latent + settings.Actions;
            register_parameter("first", _first = Uniform(inputs, inputs, settings.Hidden));
            register_parameter("firstBias", _firstBias = Uniform(inputs, settings.Hidden));
            register_parameter("second", _second = Uniform(settings.Hidden, settings.Hidden, settings.Latent));
            register_parameter("secondBias", _secondBias = Uniform(settings.Hidden, settings.Latent));

            Parameter Uniform(long fan, params long[] shape)
            {
                using var scope = torch.NewDisposeScope();
                var bound = 1 / Math.Sqrt(fan);
                var values = torch.rand(shape, generator: generator).mul(2 * bound).sub(bound).to(device).DetachFromDisposeScope();
                var parameter = new Parameter(values);
                parameter.DetachFromDisposeScope();
                return parameter;
            }
        }

        public override Tensor forward(Tensor latent, Tensor actions)
        {
            var chosen = functional.one_hot(actions, _actions).to(latent.dtype);
            return torch.cat([latent, chosen], 1).mm(_first).add(_firstBias).relu().mm(_second).add(_secondBias);
        }
    }
}

/// <summary>Sizes, horizon and weights of a <see cref="LatentPredictionObjective"/>.</summary>
public sealed record LatentPredictionSettings
{
    /// <summary>The length of the encoder's output.</summary>
    public required long Latent { get; init; }

    /// <summary>A: the number of actions.</summary>
    public required int Actions { get; init; }

    /// <summary>γ of the prediction, within [0, 1): 0 predicts the next latent state, more a discounted sum of those after it.</summary>
    public double Horizon { get; init; }

    /// <summary>The width of τ's hidden layer.</summary>
    public long Hidden { get; init; } = 64;

    /// <summary>The weight of L₊.</summary>
    public double PredictionWeight { get; init; } = 1;

    /// <summary>The weight of L₋.</summary>
    public double SeparationWeight { get; init; } = 1;

    /// <summary>β of the targets' moving averages, within [0, 1).</summary>
    public double TargetDecay { get; init; } = 0.99;

    /// <summary>Seeds τ and the pairs; libtorch's own generator is left alone.</summary>
    public int Seed { get; init; }

    internal void Check(string name)
    {
        Sizes.RequirePositive(
            ($"{name}.{nameof(Latent)}", Latent), ($"{name}.{nameof(Actions)}", Actions), ($"{name}.{nameof(Hidden)}", Hidden));
        Require(Horizon is >= 0 and < 1, nameof(Horizon), Horizon, "a discount lies within [0, 1)");
        Require(TargetDecay is >= 0 and < 1, nameof(TargetDecay), TargetDecay, "a decay lies within [0, 1)");
        Require(PredictionWeight >= 0 && double.IsFinite(PredictionWeight), nameof(PredictionWeight), PredictionWeight, Weight);
        Require(SeparationWeight >= 0 && double.IsFinite(SeparationWeight), nameof(SeparationWeight), SeparationWeight, Weight);

        void Require(bool holds, string member, double value, string rule)
        {
            if (!holds)
                throw new ArgumentOutOfRangeException(name, value, $"{name}.{member}: {rule}.");
        }
    }

    private const string Weight = "a weight is finite and not negative";
}
