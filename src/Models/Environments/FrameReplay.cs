using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>What several steps from a transition add up to.</summary>
/// <param name="Return">The discounted sum of their rewards.</param>
/// <param name="Next">The frame after them.</param>
/// <param name="Discount">What the value of that frame is multiplied by: 0 where the episode is over, else γ to the steps.</param>
public readonly record struct MultiStep(float Return, int Next, float Discount);

/// <summary>
/// The latest frames of N games in lockstep, such as an <see cref="ArcadeEnvironment"/>'s, each stored once and as bits: 50 bytes a
/// frame of Breakout. Batches are drawn uniformly, with replacement.
/// <code>
/// games.Observe(packed);  games.Step(actions, rewards, done);
/// replay.Add(packed, actions, rewards, done);
/// var batch = replay.Sample(32);                  // without rewards
/// </code>
/// </summary>
/// <remarks>
/// The frame after a transition is the one that is added next, so of the newest frames no transition can be drawn yet. Not thread-safe.
/// </remarks>
public sealed partial class FrameReplay
{
    private readonly byte[] _frames;
    private readonly int[] _actions;
    private readonly float[] _rewards;
    private readonly bool[] _done;
    private readonly long[] _shape; // of an observation
    private readonly int _steps, _bytes;
    private readonly ulong _key;
    private ulong _draws;
    private long _added; // steps of all games

    /// <summary>An empty replay.</summary>
    /// <param name="capacity">How many frames it holds, of all games together; later ones replace the oldest.</param>
    /// <param name="games">N.</param>
    /// <param name="channels">C: an observation is [C, 10, 10].</param>
    /// <param name="seed">Seeds the draws.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1, or the capacity is not two frames a game at least.</exception>
    public FrameReplay(int capacity, int games, int channels, int seed)
    {
        Sizes.RequirePositive((nameof(games), games), (nameof(channels), channels));
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 2 * games);
        _shape = [channels, ArcadeEnvironment.Size, ArcadeEnvironment.Size];
        (Games, Cells, _steps, _key) = (games, channels * ArcadeEnvironment.Size * ArcadeEnvironment.Size, capacity / games, (uint)seed);
        _bytes = ObservationBits.Bytes(Cells);
        _frames = new byte[checked(Capacity * _bytes)];
        (_actions, _rewards, _done) = (new int[Capacity], new float[Capacity], new bool[Capacity]);
    }

    /// <summary>How many frames it can hold: a whole number of steps of all games.</summary>
    public int Capacity => _steps * Games;

    /// <summary>N.</summary>
    public int Games { get; }

    /// <summary>How many cells an observation has.</summary>
    public int Cells { get; }

    /// <summary>How many frames it holds.</summary>
    public int Frames => (int)Math.Min(_added, _steps) * Games;

    /// <summary>How many transitions can be drawn.</summary>
    public int Count => Math.Max(0, Frames - Games);

    /// <summary>[<see cref="Frames"/>, bytes]: the frames as bits, by the indices that <see cref="Draw"/> gives.</summary>
    public ReadOnlySpan<byte> Packed => _frames.AsSpan(0, Frames * _bytes);

    /// <summary>[<see cref="Frames"/>]: the action that each frame was followed by.</summary>
    public ReadOnlySpan<int> Actions => _actions.AsSpan(0, Frames);

    /// <summary>[<see cref="Frames"/>]: its reward.</summary>
    public ReadOnlySpan<float> Rewards => _rewards.AsSpan(0, Frames);

    /// <summary>[<see cref="Frames"/>]: whether it ended the episode.</summary>
    public ReadOnlySpan<bool> Done => _done.AsSpan(0, Frames);

    /// <summary>The index at which the first of the next N frames will stand.</summary>
    public int NextIndex => (int)(_added % _steps) * Games;

    /// <summary>Adds a step of all games.</summary>
    /// <param name="packed">[N, bytes]: what was seen before the step, as bits.</param>
    /// <param name="actions">[N].</param>
    /// <param name="rewards">[N].</param>
    /// <param name="done">[N]: whether the step ended the episode.</param>
    /// <exception cref="ArgumentException">A length does not fit. Nothing was added.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action is negative. Nothing was added.</exception>
    public void Add(ReadOnlySpan<byte> packed, ReadOnlySpan<int> actions, ReadOnlySpan<float> rewards, ReadOnlySpan<bool> done)
    {
        TensorArguments.RequireLength(nameof(packed), packed.Length, Games, _bytes, nameof(packed));
        TensorArguments.RequireLength(nameof(actions), actions.Length, Games, nameof(actions));
        TensorArguments.RequireLength(nameof(rewards), rewards.Length, Games, nameof(rewards));
        TensorArguments.RequireLength(nameof(done), done.Length, Games, nameof(done));
        TensorArguments.RequireIndices(actions, int.MaxValue, nameof(actions));
        var at = NextIndex;
        packed.CopyTo(_frames.AsSpan(at * _bytes));
        actions.CopyTo(_actions.AsSpan(at));
        rewards.CopyTo(_rewards.AsSpan(at));
        done.CopyTo(_done.AsSpan(at));
        _added++;
    }

    /// <summary>Draws transitions.</summary>
    /// <param name="indices">[n]: receives which ones, as indices into <see cref="Actions"/> and the others.</param>
    /// <exception cref="InvalidOperationException">There is no transition yet.</exception>
    public void Draw(Span<int> indices)
    {
        if (Count == 0)
            throw new InvalidOperationException("Draw: there is no transition yet; add two steps at least");
        var oldest = Math.Max(0, _added - _steps);
        foreach (ref var index in indices)
        {
            var random = (uint)Philox.Block((uint)_draws, (uint)(_draws >> 32), 0, 0, _key).Low;
            var drawn = (int)((ulong)random * (uint)Count >> 32);
            index = (int)((oldest + drawn / Games) % _steps) * Games + drawn % Games;
            _draws++;
        }
    }

    /// <summary>The frame after that of a transition, of the same game.</summary>
    /// <param name="index">A transition that can be drawn.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is none.</exception>
    public int Next(int index)
    {
        RequireTransition(index);
        return (index + Games) % Capacity;
    }

    /// <summary>Follows a game for several steps, until its episode ends, or its newest frame.</summary>
    /// <param name="index">A transition that can be drawn.</param>
    /// <param name="steps">At least 1.</param>
    /// <param name="discount">γ, within [0, 1].</param>
    /// <exception cref="ArgumentOutOfRangeException">No such transition, no steps, or a discount outside [0, 1].</exception>
    public MultiStep Follow(int index, int steps, double discount)
    {
        RequireTransition(index);
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        if (!(discount is >= 0 and <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(discount), discount, "A discount lies within [0, 1].");
        var (sum, factor) = (0.0, 1.0);
        do
        {
            sum += factor * _rewards[index];
            factor = _done[index] ? 0 : factor * discount;
            index = (index + Games) % Capacity;
        }
        while (--steps > 0 && factor != 0 && !IsNewest(index));
        return new((float)sum, index, (float)factor);
    }

    /// <summary>Draws a batch for training without rewards.</summary>
    /// <param name="count">n: at least 1.</param>
    /// <returns>Observations [n, C, 10, 10], actions [n], next observations, done [n].</returns>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than one.</exception>
    /// <exception cref="InvalidOperationException">There is no transition yet.</exception>
    public TransitionBatch Sample(int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        var indices = new int[count];
        Draw(indices);
        return Batch(indices);
    }

    /// <summary>The transitions of some indices, without rewards.</summary>
    /// <param name="indices">[n]: at least one; transitions that can be drawn.</param>
    /// <returns>Observations [n, C, 10, 10], actions [n], next observations, done [n].</returns>
    /// <exception cref="ArgumentOutOfRangeException">There are none, or one is no transition.</exception>
    public TransitionBatch Batch(ReadOnlySpan<int> indices)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(indices.Length, 1, nameof(indices));
        var (next, actions, done) = (new int[indices.Length], new long[indices.Length], new bool[indices.Length]);
        for (var i = 0; i < indices.Length; i++)
            (next[i], actions[i], done[i]) = (Next(indices[i]), _actions[indices[i]], _done[indices[i]]);
        return new(Observations(indices), torch.tensor(actions), Observations(next), torch.tensor(done));
    }

    /// <summary>Frames as numbers.</summary>
    /// <param name="indices">[n]: at least one.</param>
    /// <returns>[n, C, 10, 10], float32.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There are none, or an index is no frame.</exception>
    public Tensor Observations(ReadOnlySpan<int> indices)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(indices.Length, 1, nameof(indices));
        TensorArguments.RequireIndices(indices, Frames, nameof(indices));
        var values = new float[indices.Length * Cells];
        for (var i = 0; i < indices.Length; i++)
            ObservationBits.Unpack(_frames.AsSpan(indices[i] * _bytes, _bytes), Cells, values.AsSpan(i * Cells, Cells));
        return torch.tensor(values, [indices.Length, .. _shape]);
    }

    private bool IsNewest(int index) => index / Games == (int)((_added - 1) % _steps);

    private void RequireTransition(int index)
    {
        if ((uint)index >= (uint)Frames || IsNewest(index))
            throw new ArgumentOutOfRangeException(nameof(index), index, "No transition that can be drawn.");
    }
}
