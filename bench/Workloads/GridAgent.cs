using AuxCore.Models;
using TorchSharp;
using static TorchSharp.torch.nn;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Workloads;

/// <summary>
/// A small agent for goals in four rooms: an encoder of one-hot cells with a narrow output, a Q head behind it, double DQN, and beside
/// that, where it is wanted, prediction of latent states. Initialisation and order of random numbers depend on the seed only.
/// </summary>
internal sealed class GridAgent : IDisposable
{
    /// <summary>The length of a latent state.</summary>
    public const int Width = 8;

    private const int Hidden = 64, Walkers = 8, Batch = 64, BufferSize = 20_000, TimeLimit = 100;
    private const double Discount = 0.95, Epsilon = 0.1, LearningRate = 1e-3, TargetDecay = 0.99;

    private static readonly long Cells = FourRooms.States;

    private readonly TabularWorld _world;
    private readonly int[] _distances, _actions = new int[Walkers], _from = new int[Walkers], _next = new int[Walkers];
    private readonly bool[] _done = new bool[Walkers];
    private readonly Module<Tensor, Tensor> _encoder, _head, _values;
    private readonly EmaModel _target;
    private readonly torch.optim.Optimizer _optimizer;
    private readonly LatentPredictionObjective? _prediction;
    private readonly TabularEnvironment _environment;
    private readonly ReplayBuffer _buffer;
    private readonly Random _random;
    private readonly Tensor _observations = torch.eye(Cells);

    /// <summary>An agent that has seen nothing yet.</summary>
    /// <param name="goal">The cell to reach.</param>
    /// <param name="seed">Of weights, walkers and draws.</param>
    /// <param name="prediction">The auxiliary objective; null for none.</param>
    public GridAgent(int goal, int seed, LatentPredictionSettings? prediction)
    {
        torch.manual_seed(seed);
        _encoder = Sequential(Linear(Cells, Hidden), ReLU(), Linear(Hidden, Width));
        _head = MakeHead();
        _values = Sequential(("encoder", _encoder), ("head", _head));
        _target = new EmaModel(_values, EmaSchedule.Constant(TargetDecay));
        _prediction = prediction is null ? null : new(_encoder, prediction with { Seed = seed });
        _optimizer = torch.optim.Adam(
            _prediction is null ? _values.parameters() : [.. _prediction.Parameters(), .. _head.parameters()], LearningRate);
        _world = FourRooms.World.WithGoal(goal);
        _distances = FourRooms.World.DistancesTo(goal);
        _environment = new(_world, Walkers, seed, TimeLimit);
        _buffer = new(BufferSize, seed);
        _random = new(seed);
    }

    /// <summary>Every walker acts once, then one training step.</summary>
    public void Step()
    {
        using var scope = torch.NewDisposeScope();
        Act();
        TransitionBatch batch = _buffer.Sample(Batch, _observations);
        // Both targets swap weights in and out, so they come before the graph that is to go backward.
        (Tensor target, Tensor nextActions) = Target(batch);
        Tensor? auxiliary = _prediction?.Loss(batch, nextActions);
        Tensor taken = _values.forward(batch.Observations).gather(1, batch.Actions.unsqueeze(1)).squeeze(1);
        Tensor loss = functional.smooth_l1_loss(taken, target);
        _optimizer.zero_grad();
        (auxiliary is null ? loss : loss + auxiliary).backward();
        _optimizer.step();
        _target.Update();
        _prediction?.UpdateTarget();
    }

    /// <summary>From how many of the other cells the greedy policy reaches the goal within twice the shortest path, in percent.</summary>
    public double Success() => Success(Greedy(), _distances);

    /// <summary>All cells' latent states, [104, width].</summary>
    public Tensor Latent()
    {
        using IDisposable noGrad = torch.no_grad();
        return _encoder.forward(_observations);
    }

    /// <summary>
    /// Success at another goal with the encoder frozen: only a new head is trained, on a random walk that is the same for all agents of the
    /// seed.
    /// </summary>
    public double Transfer(int goal, int seed, int steps, CancellationToken cancellation)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(seed);
        using Module<Tensor, Tensor> head = MakeHead();
        using var target = new EmaModel(head, EmaSchedule.Constant(TargetDecay));
        using torch.optim.Optimizer optimizer = torch.optim.Adam(head.parameters(), LearningRate);
        var walk = new ReplayBuffer(BufferSize, seed);
        walk.Collect(new TabularEnvironment(FourRooms.World.WithGoal(goal), Walkers, seed, TimeLimit), BufferSize / Walkers);
        Tensor latent = Latent();
        for (int step = 0; step < steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            using var each = torch.NewDisposeScope();
            TransitionBatch batch = walk.Sample(Batch, latent);
            Tensor next;
            using (torch.no_grad())
            using (target.Swap()) next = head.forward(batch.NextObservations);
            Tensor y = Bootstrapped(batch, next.amax([1]));
            Tensor taken = head.forward(batch.Observations).gather(1, batch.Actions.unsqueeze(1)).squeeze(1);
            optimizer.zero_grad();
            functional.smooth_l1_loss(taken, y).backward();
            optimizer.step();
            target.Update();
        }

        using IDisposable noGrad = torch.no_grad();
        return Success(head.forward(latent).argmax(1).data<long>().ToArray(), FourRooms.World.DistancesTo(goal));
    }

    public void Dispose()
    {
        _prediction?.Dispose();
        _optimizer.Dispose();
        _target.Dispose();
        _values.Dispose();
        _observations.Dispose();
    }

    private static Module<Tensor, Tensor> MakeHead() => Sequential(Linear(Width, Hidden), ReLU(), Linear(Hidden, FourRooms.Actions));

    private void Act()
    {
        long[] greedy = Greedy();
        _environment.States.CopyTo(_from);
        for (int i = 0; i < Walkers; i++)
        {
            (bool explores, int any) = (_random.NextDouble() < Epsilon, _random.Next(FourRooms.Actions));
            _actions[i] = explores ? any : (int)greedy[_from[i]];
        }

        _environment.Step(_actions, _next, _done);
        _buffer.Add(_from, _actions, _next, _done);
    }

    // Double DQN: the online network chooses, the average judges. The reward is 1 for reaching the goal, which ends the episode.
    private (Tensor Target, Tensor NextActions) Target(TransitionBatch batch)
    {
        using IDisposable noGrad = torch.no_grad();
        Tensor chosen = _values.forward(batch.NextObservations).argmax(1);
        using EmaSwap swap = _target.Swap();
        Tensor judged = _values.forward(batch.NextObservations).gather(1, chosen.unsqueeze(1)).squeeze(1);
        return (Bootstrapped(batch, judged), chosen);
    }

    private static Tensor Bootstrapped(TransitionBatch batch, Tensor next)
    {
        Tensor done = batch.Done.to(torch.float32);
        return done + Discount * (1 - done) * next;
    }

    private long[] Greedy()
    {
        using var scope = torch.NewDisposeScope();
        using IDisposable noGrad = torch.no_grad();
        return _values.forward(_observations).argmax(1).data<long>().ToArray();
    }

    private static double Success(long[] greedy, int[] distances)
    {
        int reached = 0;
        for (int start = 0; start < Cells; start++)
        {
            int at = start;
            for (int step = 0; step < 2 * distances[start] && distances[at] > 0; step++)
                at = FourRooms.World.Outcomes(at, (int)greedy[at])[0].Next;
            if (distances[start] > 0 && distances[at] == 0) reached++;
        }

        return 100.0 * reached / (Cells - 1);
    }
}
