using AuxCore.Kernels;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// N games on a grid of 10 × 10 cells, played in lockstep. Rules, channels, sticky actions and rising difficulty are compatible with
/// MinAtar (Young and Tian 2019, arXiv 1903.03176); the code is not its. Each game has streams of random numbers of its own, a function of
/// seed and game: what happens in it does not depend on how many others there are.
/// <code>
/// var games = new ArcadeEnvironment(ArcadeGame.Breakout, count: 64, seed: 1);
/// games.ActUniformly(actions);
/// games.Step(actions, rewards, done);
/// using var observations = games.Observe();      // [64, 4, 10, 10]
/// </code>
/// </summary>
/// <remarks>
/// The six actions are, in order: none, left, up, right, down, fire. A game that is over is followed by the next one at once, so after a
/// step that was done, what is observed is the beginning of the next game. A step allocates nothing. Not thread-safe.
/// </remarks>
public sealed class ArcadeEnvironment
{
    private const uint ForActions = 1, ForStickiness = 2; // the counter's last word; LaneRandom has another

    private readonly ArcadeRules _rules;
    private readonly LaneRandom[] _randoms;
    private readonly int[] _executed; // the action that each game saw last
    private readonly ulong _key;
    private readonly uint _sticks;    // of 2³²
    private byte[] _packed = [];      // where observations are drawn that are wanted as numbers

    /// <summary>Games at their beginning.</summary>
    /// <param name="game">Which.</param>
    /// <param name="count">N.</param>
    /// <param name="seed">Two environments with the same seed do the same.</param>
    /// <param name="stickiness">How likely it is that a game repeats the action before instead of the one that was chosen.</param>
    /// <param name="ramping">Whether the games become harder as one goes on, where they do.</param>
    /// <exception cref="ArgumentOutOfRangeException">No such game, no games, or a stickiness outside [0, 1).</exception>
    public ArcadeEnvironment(ArcadeGame game, int count, int seed, double stickiness = 0.1, bool ramping = true)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        if (!(stickiness is >= 0 and < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(stickiness), stickiness, "A stickiness lies within [0, 1).");
        (Game, _rules, Stickiness, _key) = (game, ArcadeRules.Of(game, count, ramping), stickiness, (uint)seed);
        _sticks = (uint)(stickiness * (1UL << 32));
        (_randoms, _executed) = (new LaneRandom[count], new int[count]);
        Reset();
    }

    /// <summary>The number of actions, in all games.</summary>
    public const int Actions = ArcadeRules.Actions;

    /// <summary>Rows of the grid, and columns.</summary>
    public const int Size = ArcadeRules.Size;

    /// <summary>Which game.</summary>
    public ArcadeGame Game { get; }

    /// <summary>N.</summary>
    public int Count => _executed.Length;

    /// <summary>C: what an observation tells apart; <see cref="ArcadeGame"/> says what.</summary>
    public int Channels => _rules.Channels;

    /// <summary>How many cells an observation has: C · 100.</summary>
    public int Cells => Channels * ArcadeRules.Cells;

    /// <summary>How many bytes an observation takes as bits.</summary>
    public int PackedBytes => ObservationBits.Bytes(Cells);

    /// <summary>How likely it is that a game repeats the action before.</summary>
    public double Stickiness { get; }

    /// <summary>How many steps each game has made.</summary>
    public long Steps { get; private set; }

    /// <summary>The rules with the states of all games, for tests.</summary>
    internal ArcadeRules Rules => _rules;

    /// <summary>The action that each game saw last, after what makes actions stick.</summary>
    internal ReadOnlySpan<int> Executed => _executed;

    /// <summary>Goes back to the very beginning: what follows is the same as the first time.</summary>
    public void Reset()
    {
        Steps = 0;
        Array.Clear(_executed);
        for (var i = 0; i < Count; i++)
        {
            _randoms[i] = new(_key, (uint)i);
            _rules.Start(i, ref _randoms[i]);
        }
    }

    /// <summary>
    /// Draws the actions of the coming step, each as likely as any other. Asked again before that step, they are the same.
    /// </summary>
    /// <param name="actions">[N].</param>
    /// <exception cref="ArgumentException">Another length.</exception>
    public void ActUniformly(Span<int> actions)
    {
        RequireLength(actions.Length, Count, nameof(actions));
        for (var i = 0; i < actions.Length; i++)
            actions[i] = (int)((ulong)Draw(i, ForActions) * Actions >> 32);
    }

    /// <summary>Every game makes a step.</summary>
    /// <param name="actions">
    /// [N]: what is chosen; with the probability <see cref="Stickiness"/> the action before is repeated instead.
    /// </param>
    /// <param name="rewards">[N].</param>
    /// <param name="done">[N]: whether the step ended the game. The next one has begun then.</param>
    /// <exception cref="ArgumentException">A length does not fit. Nothing was changed.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action is out of range. Nothing was changed.</exception>
    public void Step(ReadOnlySpan<int> actions, Span<float> rewards, Span<bool> done)
    {
        RequireLength(actions.Length, Count, nameof(actions));
        RequireLength(rewards.Length, Count, nameof(rewards));
        RequireLength(done.Length, Count, nameof(done));
        TensorArguments.RequireIndices(actions, Actions, nameof(actions));
        for (var i = 0; i < actions.Length; i++)
        {
            if (_sticks == 0 || Draw(i, ForStickiness) >= _sticks)
                _executed[i] = actions[i];
            var (reward, ends) = _rules.Step(i, _executed[i], ref _randoms[i]);
            (rewards[i], done[i]) = (reward, ends);
            if (ends)
                _rules.Start(i, ref _randoms[i]);
        }

        Steps++;
    }

    /// <summary>What is seen, as bits: the form to store.</summary>
    /// <param name="packed">
    /// [N, <see cref="PackedBytes"/>]: cell c of game i is bit c mod 8 of byte i · PackedBytes + c / 8, with
    /// c = channel · 100 + y · 10 + x.
    /// </param>
    /// <exception cref="ArgumentException">Another length.</exception>
    public void Observe(Span<byte> packed)
    {
        RequireLength(packed.Length, (long)Count * PackedBytes, nameof(packed));
        packed.Clear();
        for (var i = 0; i < Count; i++)
            _rules.Observe(i, new Picture(packed.Slice(i * PackedBytes, PackedBytes)));
    }

    /// <summary>What is seen, as numbers.</summary>
    /// <param name="observations">[N, C, 10, 10]: 1 where something is, else 0.</param>
    /// <exception cref="ArgumentException">Another length.</exception>
    public void Observe(Span<float> observations)
    {
        RequireLength(observations.Length, (long)Count * Cells, nameof(observations));
        if (_packed.Length == 0)
            _packed = new byte[Count * PackedBytes];
        Observe(_packed);
        ObservationBits.Unpack(_packed, Cells, observations);
    }

    /// <summary>What is seen, as a tensor.</summary>
    /// <returns>[N, C, 10, 10], float32: 1 where something is, else 0.</returns>
    public Tensor Observe()
    {
        var values = new float[Count * Cells];
        Observe(values);
        return torch.tensor(values, [Count, Channels, Size, Size]);
    }

    private uint Draw(int game, uint purpose) => (uint)Philox.Block((uint)Steps, (uint)(Steps >> 32), (uint)game, purpose, _key).Low;

    private void RequireLength(long length, long expected, string name)
    {
        if (length != expected)
            throw new ArgumentException($"{name}: {length} elements, but {Count} games need {expected}", name);
    }
}
