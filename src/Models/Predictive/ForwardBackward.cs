using AuxCore.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Forward-backward representations with discrete actions (Touati and Ollivier 2021; <c>controllable_agent</c>'s <c>discrete_fb.py</c>).
/// F(s, a, z) · B(s′) learns the successor measure of the policies π_z(s) = argmax_a F(s, a, z) · z, for all z at once, without any reward;
/// afterwards a reward r gives its z, the mean of r(s) B(s), and with it a policy, without any more training.
/// <code>
/// using var agent = new ForwardBackward(new() { ObservationSize = 104, Actions = 4, Loss = loss });
/// agent.Update(batch);                                   // as often as there is time
/// var action = agent.Act(observation, agent.GoalToZ(goal));
/// </code>
/// </summary>
/// <remarks>
/// Everything lies on the CPU, in float32. Initialisation and z come from a generator of the agent's own, so the same seed and the same
/// batches give the same agent, and libtorch's generator is left alone. Not thread-safe.
/// </remarks>
public sealed class ForwardBackward : IDisposable
{
    private readonly ForwardBackwardSettings _settings;
    private readonly Module<Tensor, Tensor> _backward, _targetBackward;
    private readonly ForwardMap _forward, _targetForward;
    private readonly ForwardBackwardObjective _objective;
    private readonly AdamW[] _optimizers; // without weight decay: Adam
    private readonly EmaMixer _targets;
    private readonly torch.Generator _generator;
    private bool _disposed;

    /// <summary>Networks of their own.</summary>
    /// <param name="settings">Sizes, loss, rates.</param>
    /// <exception cref="ArgumentException">A setting is out of range, or settings do not go together.</exception>
    public ForwardBackward(ForwardBackwardSettings settings)
        : this(settings, backward: null)
    {
    }

    /// <summary>
    /// With a B that is given and does not learn: F · B then learns as much of the successor measure as these features can express.
    /// </summary>
    /// <param name="settings">Sizes, loss, rates.</param>
    /// <param name="features">
    /// B: [n, observation size] to [n, d], float32. It stays the caller's, is not trained, and gets no gradient.
    /// </param>
    /// <exception cref="ArgumentException">A setting is out of range, or settings do not go together.</exception>
    public static ForwardBackward OnFixedFeatures(ForwardBackwardSettings settings, Module<Tensor, Tensor> features)
    {
        ArgumentNullException.ThrowIfNull(features);
        return new(settings, features);
    }

    private ForwardBackward(ForwardBackwardSettings settings, Module<Tensor, Tensor>? backward)
    {
        ArgumentNullException.ThrowIfNull(settings);
        settings.Check(nameof(settings));
        _settings = settings;
        HasFixedFeatures = backward is not null;
        _generator = new torch.Generator((ulong)settings.Seed, torch.CPU);
        (_forward, _targetForward) = (Initialised(MakeForward()), MakeForward());
        _backward = backward ?? Initialised(MakeBackward());
        _targetBackward = backward ?? MakeBackward();
        _objective = new(settings.Loss);

        var rate = settings.BackwardLearningRate ?? settings.LearningRate;
        _optimizers = HasFixedFeatures
            ? [new AdamW(_forward.parameters(), settings.LearningRate)]
            : [new AdamW(_forward.parameters(), settings.LearningRate), new AdamW(_backward.parameters(), rate)];
        var pairs = Pairs(_forward, _targetForward).Concat(HasFixedFeatures ? [] : Pairs(_backward, _targetBackward));
        _targets = new EmaMixer([.. pairs]);
        _targets.Update(0); // the targets begin as copies
    }

    /// <summary>F.</summary>
    public ForwardMap Forward => _forward;

    /// <summary>B.</summary>
    public Module<Tensor, Tensor> Backward => _backward;

    /// <summary>Whether B was given and does not learn.</summary>
    public bool HasFixedFeatures { get; }

    /// <summary>The target network of F, which follows it.</summary>
    internal ForwardMap TargetForward => _targetForward;

    /// <summary>That of B; the same module where B does not learn.</summary>
    internal Module<Tensor, Tensor> TargetBackward => _targetBackward;

    /// <summary>Training steps so far.</summary>
    public long Steps { get; private set; }

    /// <summary>One training step: loss, gradients, optimisers, target networks.</summary>
    /// <param name="batch">At least 2 transitions, of any policy.</param>
    /// <returns>The parts of the loss before the step; NaN where an observation is, and then the networks are lost too.</returns>
    /// <exception cref="ArgumentException">
    /// A tensor does not fit, or fixed features are not [n, d]; the message names it. No weight was changed.
    /// </exception>
    /// <exception cref="ObjectDisposedException">The agent or a tensor was disposed.</exception>
    public FbTerms Update(TransitionBatch batch)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentNullException.ThrowIfNull(batch);
        Check(batch);
        using var scope = torch.NewDisposeScope();
        var observed = _settings.Start == Start.Next ? batch.NextObservations : batch.Observations;
        var z = SampleZ(batch.NextObservations);
        Tensor targetForward, targetBackward;
        using (torch.no_grad())
        {
            targetForward = NextForward(batch.NextObservations, z);
            targetBackward = Features(_targetBackward, observed);
        }

        var forward = Taken(_forward.forward(batch.Observations, z), batch.Actions);
        var backward = HasFixedFeatures ? targetBackward : Features(_backward, observed);
        var loss = _objective.Loss(forward, backward, targetForward, targetBackward, batch.Done);
        foreach (var optimizer in _optimizers)
            optimizer.zero_grad();
        loss.backward();
        foreach (var optimizer in _optimizers)
            optimizer.step();
        _targets.Update(_settings.TargetDecay);
        Steps++;
        return _objective.Terms;
    }

    /// <summary>z for training: a part of them B of the given states in another order, the others uniform on the sphere.</summary>
    /// <param name="observations">[n, observation size], float32.</param>
    /// <returns>[n, d], each row of length √d.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor SampleZ(Tensor observations)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Sizes.RequireRows(observations, _settings.ObservationSize, nameof(observations));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var n = observations.shape[0];
        var z = Spheres.Project(torch.randn([n, _settings.Dimension], generator: _generator));
        var goals = (long)Math.Round(n * _settings.GoalFraction);
        if (goals > 0)
        {
            var chosen = torch.randperm(n, generator: _generator).narrow(0, 0, goals);
            z = torch.cat([Spheres.Project(Features(_backward, observations.index_select(0, chosen))), z.narrow(0, goals, n - goals)]);
        }

        return z.MoveToOuterDisposeScope();
    }

    /// <summary>The z of reaching a state: B of it.</summary>
    /// <param name="goals">[n, observation size], float32.</param>
    /// <returns>[n, d], each row of length √d.</returns>
    /// <exception cref="ArgumentException">The shape does not fit.</exception>
    public Tensor GoalToZ(Tensor goals)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Sizes.RequireRows(goals, _settings.ObservationSize, nameof(goals));
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        return Spheres.Project(Features(_backward, goals)).MoveToOuterDisposeScope();
    }

    /// <summary>The z of a reward: the mean of r(s) B(s) over states as they occur in the training data, scaled to length √d.</summary>
    /// <param name="observations">[n, observation size], float32.</param>
    /// <param name="rewards">[n], float32.</param>
    /// <returns>[1, d].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public Tensor RewardToZ(Tensor observations, Tensor rewards)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Sizes.RequireRows(observations, _settings.ObservationSize, nameof(observations));
        Sizes.RequireColumn(rewards, observations.shape[0], nameof(rewards), torch.ScalarType.Float32);
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var mean = (Features(_backward, observations) * rewards.unsqueeze(1)).mean([0], keepdim: true);
        return Spheres.Project(mean).MoveToOuterDisposeScope();
    }

    /// <summary>Q of every action: the least over the heads of F(s, a, z) · z.</summary>
    /// <param name="observations">[n, observation size], float32.</param>
    /// <param name="z">[n, d], or [1, d] for all; float32.</param>
    /// <returns>[n, A].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public Tensor Values(Tensor observations, Tensor z)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Sizes.RequireRows(observations, _settings.ObservationSize, nameof(observations));
        Sizes.RequireRows(z, _settings.Dimension, nameof(z));
        if (z.shape[0] != 1 && z.shape[0] != observations.shape[0])
        {
            throw new ArgumentException(
                $"z: {z.shape[0]} rows for {observations.shape[0]} observations; one for each, or 1 for all", nameof(z));
        }

        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        var each = z.shape[0] == 1 ? z.expand(observations.shape[0], z.shape[1]) : z;
        return Least(_forward.forward(observations, each), each).MoveToOuterDisposeScope();
    }

    /// <summary>The greedy action of each state; the first of equals.</summary>
    /// <param name="observations">[n, observation size], float32.</param>
    /// <param name="z">[n, d], or [1, d] for all; float32.</param>
    /// <returns>[n], int64.</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public Tensor Act(Tensor observations, Tensor z)
    {
        using var values = Values(observations, z);
        return values.argmax(1);
    }

    /// <summary>Frees the networks; a B that was given stays.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _targets.Dispose();
        foreach (var optimizer in _optimizers)
            optimizer.Dispose();
        _objective.Dispose();
        _generator.Dispose();
        _forward.Dispose();
        _targetForward.Dispose();
        if (HasFixedFeatures)
            return;
        _backward.Dispose();
        _targetBackward.Dispose();
    }

    private ForwardMap MakeForward() =>
        new(_settings.ObservationSize, _settings.Actions, _settings.Dimension, _settings.Heads, _settings.Hidden);

    private BackwardMap MakeBackward() => new(_settings.ObservationSize, _settings.Dimension, _settings.Hidden);

    private T Initialised<T>(T map) where T : Module
    {
        Initialisation.Apply(map, _generator);
        return map;
    }

    // [n, d]: a module of the caller's may give anything, and a product of wrong shapes would end the process.
    private Tensor Features(Module<Tensor, Tensor> map, Tensor observations)
    {
        var rows = map.forward(observations);
        Sizes.RequireRows(rows, _settings.Dimension, "features");
        if (rows.shape[0] != observations.shape[0])
            throw new ArgumentException($"features: {rows.shape[0]} rows for {observations.shape[0]} observations");
        return rows;
    }

    private static IEnumerable<(Tensor Source, Tensor Average)> Pairs(Module online, Module target) =>
        online.parameters().Zip(target.parameters(), (source, average) => ((Tensor)source, average.requires_grad_(false)));

    // [E, n, d]: the target network's F of the next state, averaged over the actions of the policy of z.
    private Tensor NextForward(Tensor observations, Tensor z)
    {
        var all = _targetForward.forward(observations, z);
        var values = Least(all, z);
        if (_settings.Temperature == 0)
            return Taken(all, values.argmax(1));
        var policy = functional.softmax(values / _settings.Temperature, 1);
        return (all * policy.unsqueeze(2)).sum([2]);
    }

    // [E, n, A, d] and actions to [E, n, d].
    private static Tensor Taken(Tensor all, Tensor actions)
    {
        var index = actions.view(1, -1, 1, 1).expand(all.shape[0], all.shape[1], 1, all.shape[3]);
        return all.gather(2, index).squeeze(2);
    }

    // [E, n, A, d] and z to [n, A].
    private static Tensor Least(Tensor all, Tensor z) => (all * z.view(1, z.shape[0], 1, z.shape[1])).sum([3]).amin([0]);

    private void Check(TransitionBatch batch)
    {
        Sizes.RequireRows(batch.Observations, _settings.ObservationSize, nameof(batch.Observations));
        var n = batch.Observations.shape[0];
        Sizes.RequireRows(batch.NextObservations, _settings.ObservationSize, nameof(batch.NextObservations));
        if (batch.NextObservations.shape[0] != n)
            throw new ArgumentException($"NextObservations: {batch.NextObservations.shape[0]} rows for {n} observations", nameof(batch));
        Sizes.RequireColumn(batch.Actions, n, nameof(batch.Actions), torch.ScalarType.Int64);
        Sizes.RequireColumn(batch.Done, n, nameof(batch.Done), torch.ScalarType.Bool);
        if (n < 2)
            throw new ArgumentException($"{n} transitions; pairs of different ones are needed, so at least 2", nameof(batch));
        using var scope = torch.NewDisposeScope();
        var (least, most) = (batch.Actions.min().item<long>(), batch.Actions.max().item<long>());
        if (least < 0 || most >= _settings.Actions)
            throw new ArgumentException(
                $"Actions: {(least < 0 ? least : most)} is not within 0 and {_settings.Actions - 1}", nameof(batch));
    }
}
