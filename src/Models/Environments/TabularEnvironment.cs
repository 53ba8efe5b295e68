using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// N walkers through one <see cref="TabularWorld"/>, which move at the same time. Each has a stream of random numbers of its own, a
/// function of seed, walker and step: what a walker meets does not depend on how many others there are, nor on threads.
/// <code>
/// var rooms = new TabularEnvironment(FourRooms.World, count: 32, seed: 1, timeLimit: 50);
/// rooms.ActUniformly(actions);
/// rooms.Step(actions, next, done);      // rooms.States was where they came from, and is where they stand now
/// </code>
/// </summary>
/// <remarks>An episode that ends, or reaches the time limit, is followed by the next one at once. Not thread-safe.</remarks>
public sealed class TabularEnvironment
{
    private const uint ForMoves = 0, ForActions = 1, ForStarts = 2; // the counter's last word

    private readonly int[] _states, _ages;
    private readonly ulong _key;

    /// <summary>Walkers at the beginning of their first episodes.</summary>
    /// <param name="world">Where they walk.</param>
    /// <param name="count">N.</param>
    /// <param name="seed">Two environments with the same seed do the same.</param>
    /// <param name="timeLimit">
    /// After how many steps an episode is broken off, 0 for never. That is no end: <c>done</c> stays false, because the world would go on.
    /// </param>
    /// <exception cref="ArgumentOutOfRangeException">No walkers, or a negative time limit.</exception>
    public TabularEnvironment(TabularWorld world, int count, int seed, int timeLimit = 0)
    {
        ArgumentNullException.ThrowIfNull(world);
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(timeLimit);
        (World, TimeLimit, _key) = (world, timeLimit, (uint)seed);
        (_states, _ages) = (new int[count], new int[count]);
        Reset();
    }

    /// <summary>Where they walk.</summary>
    public TabularWorld World { get; }

    /// <summary>N.</summary>
    public int Count => _states.Length;

    /// <summary>After how many steps an episode is broken off; 0 for never.</summary>
    public int TimeLimit { get; }

    /// <summary>How many steps each walker has made.</summary>
    public long Steps { get; private set; }

    /// <summary>[N]: where the walkers stand.</summary>
    public ReadOnlySpan<int> States => _states;

    /// <summary>Goes back to the very beginning: what follows is the same as the first time.</summary>
    public void Reset()
    {
        Steps = 0;
        for (var i = 0; i < Count; i++)
            Restart(i, (uint)Philox.Block(0, 0, (uint)i, ForStarts, _key).Low);
    }

    /// <summary>Puts the walkers somewhere, at the beginning of an episode. The streams of random numbers go on.</summary>
    /// <param name="states">[N].</param>
    /// <exception cref="ArgumentException">Another length. Nobody was moved.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A state is out of range. Nobody was moved.</exception>
    public void Reset(ReadOnlySpan<int> states)
    {
        RequireLength(states.Length, nameof(states));
        foreach (var state in states)
            World.RequireState(state, nameof(states));
        states.CopyTo(_states);
        Array.Clear(_ages);
    }

    /// <summary>
    /// Draws the actions of the coming step, each as likely as any other. Asked again before that step, they are the same.
    /// </summary>
    /// <param name="actions">[N].</param>
    /// <exception cref="ArgumentException">Another length.</exception>
    public void ActUniformly(Span<int> actions)
    {
        RequireLength(actions.Length, nameof(actions));
        for (var i = 0; i < actions.Length; i++)
            actions[i] = Below(World.Actions, (uint)Draw(i, ForActions).Low);
    }

    /// <summary>Every walker makes a step.</summary>
    /// <param name="actions">[N].</param>
    /// <param name="next">
    /// [N]: where the step led. A walker whose episode is over stands elsewhere in <see cref="States"/>, at the beginning of its next one.
    /// </param>
    /// <param name="done">[N]: whether the step ended the episode. A time limit does not set it.</param>
    /// <exception cref="ArgumentException">A length does not fit, or two of the spans overlap. Nothing was changed.</exception>
    /// <exception cref="ArgumentOutOfRangeException">An action is out of range. Nothing was changed.</exception>
    public void Step(ReadOnlySpan<int> actions, Span<int> next, Span<bool> done)
    {
        RequireLength(actions.Length, nameof(actions));
        RequireLength(next.Length, nameof(next));
        RequireLength(done.Length, nameof(done));
        if (actions.Overlaps(next))
            throw new ArgumentException("next overlaps actions in memory", nameof(next));
        TensorArguments.RequireIndices(actions, World.Actions, nameof(actions));
        for (var i = 0; i < actions.Length; i++)
        {
            var (low, high) = Draw(i, ForMoves);
            var outcome = World.Sample(_states[i], actions[i], Unit(low));
            (next[i], done[i]) = (outcome.Next, outcome.Ends);
            if (outcome.Ends || ++_ages[i] == TimeLimit)
                Restart(i, (uint)high);
            else
                _states[i] = outcome.Next;
        }

        Steps++;
    }

    private void Restart(int walker, uint random) =>
        (_states[walker], _ages[walker]) = (World.Starts[Below(World.Starts.Length, random)], 0);

    private (ulong Low, ulong High) Draw(int walker, uint purpose) =>
        Philox.Block((uint)Steps, (uint)(Steps >> 32), (uint)walker, purpose, _key);

    private static double Unit(ulong random) => (random >> 11) * (1.0 / (1UL << 53));

    private static int Below(int limit, uint random) => (int)((ulong)random * (uint)limit >> 32);

    private void RequireLength(int length, string name)
    {
        if (length != Count)
            throw new ArgumentException($"{name}: {length} elements for {Count} walkers", name);
    }
}
