using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// The latest transitions of tabular worlds, from which batches are drawn uniformly, with replacement.
/// <code>
/// var buffer = new ReplayBuffer(capacity: 100_000, seed: 1);
/// buffer.Collect(new TabularEnvironment(FourRooms.World, count: 32, seed: 1, timeLimit: 50), steps: 1000);
/// using var observations = torch.eye(FourRooms.States);
/// var batch = buffer.Sample(256, observations);
/// </code>
/// </summary>
/// <remarks>Not thread-safe.</remarks>
public sealed class ReplayBuffer
{
    private readonly int[] _states, _actions, _nextStates;
    private readonly bool[] _done;
    private readonly ulong _key;
    private ulong _draws;
    private int _at;

    /// <summary>An empty buffer.</summary>
    /// <param name="capacity">How many transitions it holds; later ones replace the oldest.</param>
    /// <param name="seed">Seeds the draws.</param>
    /// <exception cref="ArgumentOutOfRangeException">A capacity below 1.</exception>
    public ReplayBuffer(int capacity, int seed)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        (_states, _actions, _nextStates, _done) = (new int[capacity], new int[capacity], new int[capacity], new bool[capacity]);
        _key = (uint)seed;
    }

    /// <summary>How many transitions it can hold.</summary>
    public int Capacity => _states.Length;

    /// <summary>How many transitions it holds.</summary>
    public int Count { get; private set; }

    /// <summary>[Count]: where each step began. In the order of arrival, as long as nothing was replaced.</summary>
    public ReadOnlySpan<int> States => _states.AsSpan(0, Count);

    /// <summary>[Count]: the actions.</summary>
    public ReadOnlySpan<int> Actions => _actions.AsSpan(0, Count);

    /// <summary>[Count]: where each step led.</summary>
    public ReadOnlySpan<int> NextStates => _nextStates.AsSpan(0, Count);

    /// <summary>[Count]: whether the step ended its episode.</summary>
    public ReadOnlySpan<bool> Done => _done.AsSpan(0, Count);

    /// <summary>Adds transitions, in order.</summary>
    /// <param name="states">[n]: where each step began.</param>
    /// <param name="actions">[n].</param>
    /// <param name="nextStates">[n]: where it led.</param>
    /// <param name="done">[n]: whether it ended the episode.</param>
    /// <exception cref="ArgumentException">Lengths differ. Nothing was added.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A state or an action is negative. Nothing was added.</exception>
    public void Add(ReadOnlySpan<int> states, ReadOnlySpan<int> actions, ReadOnlySpan<int> nextStates, ReadOnlySpan<bool> done)
    {
        TensorArguments.RequireLength(nameof(actions), actions.Length, states.Length, nameof(actions));
        TensorArguments.RequireLength(nameof(nextStates), nextStates.Length, states.Length, nameof(nextStates));
        TensorArguments.RequireLength(nameof(done), done.Length, states.Length, nameof(done));
        TensorArguments.RequireIndices(states, int.MaxValue, nameof(states));
        TensorArguments.RequireIndices(actions, int.MaxValue, nameof(actions));
        TensorArguments.RequireIndices(nextStates, int.MaxValue, nameof(nextStates));
        for (var i = 0; i < states.Length; i++)
        {
            (_states[_at], _actions[_at], _nextStates[_at], _done[_at]) = (states[i], actions[i], nextStates[i], done[i]);
            _at = (_at + 1) % Capacity;
            Count = Math.Min(Count + 1, Capacity);
        }
    }

    /// <summary>Lets an environment's walkers act at random, each action as likely as any other, and adds what happens.</summary>
    /// <param name="environment">It goes on from where it stands.</param>
    /// <param name="steps">How many steps each walker makes.</param>
    /// <exception cref="ArgumentOutOfRangeException">A negative number of steps.</exception>
    public void Collect(TabularEnvironment environment, int steps)
    {
        ArgumentNullException.ThrowIfNull(environment);
        ArgumentOutOfRangeException.ThrowIfNegative(steps);
        var (from, actions, next) = (new int[environment.Count], new int[environment.Count], new int[environment.Count]);
        var done = new bool[environment.Count];
        for (var step = 0; step < steps; step++)
        {
            environment.States.CopyTo(from);
            environment.ActUniformly(actions);
            environment.Step(actions, next, done);
            Add(from, actions, next, done);
        }
    }

    /// <summary>Draws transitions.</summary>
    /// <param name="indices">[n]: receives which ones, as indices into <see cref="States"/> and the others.</param>
    /// <exception cref="InvalidOperationException">The buffer is empty.</exception>
    public void Draw(Span<int> indices)
    {
        if (Count == 0)
            throw new InvalidOperationException("Draw: the buffer is empty");
        foreach (ref var index in indices)
        {
            var random = (uint)Philox.Block((uint)_draws, (uint)(_draws >> 32), 0, 0, _key).Low;
            index = (int)((ulong)random * (uint)Count >> 32);
            _draws++;
        }
    }

    /// <summary>Draws a batch for training.</summary>
    /// <param name="count">n: at least 1.</param>
    /// <param name="observations">[S, …]: what is seen in each state; <c>torch.eye</c> for one-hot vectors. Any dtype and device.</param>
    /// <returns>Observations [n, …], actions [n], next observations [n, …], done [n], on the device of what is given.</returns>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than one.</exception>
    /// <exception cref="ArgumentException">There are more states in the buffer than observations.</exception>
    /// <exception cref="InvalidOperationException">The buffer is empty.</exception>
    /// <exception cref="ObjectDisposedException">The observations were disposed.</exception>
    public TransitionBatch Sample(int count, Tensor observations)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentNullException.ThrowIfNull(observations);
        if (observations.IsInvalid)
            throw new ObjectDisposedException(nameof(observations), "observations was disposed");
        if (observations.shape.Length < 1)
            throw new ArgumentException("observations: a scalar has no rows", nameof(observations));
        var drawn = new int[count];
        Draw(drawn);
        var (states, actions, next, done) = (new long[count], new long[count], new long[count], new bool[count]);
        for (var i = 0; i < count; i++)
            (states[i], actions[i], next[i], done[i]) = (_states[drawn[i]], _actions[drawn[i]], _nextStates[drawn[i]], _done[drawn[i]]);
        var highest = Math.Max(states.Max(), next.Max());
        if (highest >= observations.shape[0])
            throw new ArgumentException($"observations: {observations.shape[0]} rows, but a state is {highest}", nameof(observations));
        using var scope = torch.NewDisposeScope();
        var device = observations.device;
        return new(
            observations.index_select(0, torch.tensor(states, device: device)).MoveToOuterDisposeScope(),
            torch.tensor(actions, device: device).MoveToOuterDisposeScope(),
            observations.index_select(0, torch.tensor(next, device: device)).MoveToOuterDisposeScope(),
            torch.tensor(done, device: device).MoveToOuterDisposeScope());
    }
}
