using System.Globalization;

namespace AuxCore.Models;

/// <summary>Where a move may lead.</summary>
/// <param name="Next">The state after the move.</param>
/// <param name="Probability">How likely that is, within (0, 1].</param>
/// <param name="Ends">Whether the episode is over then.</param>
public readonly record struct Outcome(int Next, double Probability, bool Ends = false);

/// <summary>
/// A Markov decision process with finitely many states and actions, and no rewards: those are the caller's, as functions of states. It
/// knows its exact transition probabilities and shortest paths. Immutable; a <see cref="TabularEnvironment"/> walks through it.
/// </summary>
public sealed class TabularWorld
{
    private const double SumSlack = 1e-9;

    private readonly int[] _offsets; // [S · A + 1]: where the outcomes of a state and action begin
    private readonly Outcome[] _outcomes;
    private readonly double[] _cumulative; // probabilities of an outcome and of those before it
    private readonly int[] _starts;

    /// <summary>A world of one's own.</summary>
    /// <param name="states">S.</param>
    /// <param name="actions">A.</param>
    /// <param name="outcomes">What an action may do in a state; the probabilities sum to 1. Called once for each state and action.</param>
    /// <param name="starts">Where episodes begin, each with the same probability; anywhere, without.</param>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than one state or action, or a start that is no state.</exception>
    /// <exception cref="ArgumentException">
    /// An outcome leads to no state, a probability is not within (0, 1], or those of a move do not sum to 1; or there are no starts. The
    /// message names state and action.
    /// </exception>
    public TabularWorld(int states, int actions, Func<int, int, IEnumerable<Outcome>> outcomes, IEnumerable<int>? starts = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(states, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(actions, 1);
        ArgumentNullException.ThrowIfNull(outcomes);
        (States, Actions) = (states, actions);
        _offsets = new int[checked(states * actions + 1)];
        List<Outcome> all = [];
        for (var move = 0; move < states * actions; move++)
        {
            var those = outcomes(move / actions, move % actions)?.ToArray() ?? [];
            CheckMove(those, move);
            all.AddRange(those);
            _offsets[move + 1] = all.Count;
        }

        _outcomes = [.. all];
        _cumulative = Cumulative();
        _starts = [.. starts ?? Enumerable.Range(0, states)];
        if (_starts.Length == 0)
            throw new ArgumentException("starts: there are none", nameof(starts));
        foreach (var start in _starts)
            RequireState(start, nameof(starts));
    }

    /// <summary>S.</summary>
    public int States { get; }

    /// <summary>A.</summary>
    public int Actions { get; }

    /// <summary>Where episodes begin, each with the same probability.</summary>
    public ReadOnlySpan<int> Starts => _starts;

    /// <summary>What an action may do in a state.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such state or action.</exception>
    public ReadOnlySpan<Outcome> Outcomes(int state, int action)
    {
        RequireState(state, nameof(state));
        if ((uint)action >= (uint)Actions)
            throw new ArgumentOutOfRangeException(nameof(action), action, $"{nameof(action)} is not within 0 and {Actions - 1}.");
        var move = state * Actions + action;
        return _outcomes.AsSpan(_offsets[move].._offsets[move + 1]);
    }

    /// <summary>
    /// P under a policy: the probabilities of the state after each state. Moves that end the episode are left out, so such rows sum to less
    /// than 1; with done flags instead, TD learns the same measure.
    /// </summary>
    /// <param name="policy">[S, A], row-major: the probability of each action in each state. The uniform policy, without.</param>
    /// <returns>[S, S], row-major, as <see cref="Kernels.TransitionMatrix.FromDense"/> takes it.</returns>
    /// <exception cref="ArgumentException">Another length, or a row that is no distribution.</exception>
    public double[] Transitions(ReadOnlySpan<double> policy = default)
    {
        if (!policy.IsEmpty)
            CheckPolicy(policy);
        var matrix = new double[States * States];
        for (var move = 0; move < States * Actions; move++)
        {
            var chosen = policy.IsEmpty ? 1.0 / Actions : policy[move];
            foreach (var outcome in _outcomes.AsSpan(_offsets[move].._offsets[move + 1]))
            {
                if (!outcome.Ends)
                    matrix[move / Actions * States + outcome.Next] += chosen * outcome.Probability;
            }
        }

        return matrix;
    }

    /// <summary>The fewest moves from each state to a goal, if every move leads where one would like: the shortest paths.</summary>
    /// <returns>[S]: 0 at the goal, −1 where no path leads there.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The goal is no state.</exception>
    public int[] DistancesTo(int goal)
    {
        RequireState(goal, nameof(goal));
        var distances = new int[States];
        Array.Fill(distances, -1);
        distances[goal] = 0;
        for (var (length, found) = (0, true); found; length++)
        {
            found = false;
            for (var move = 0; move < States * Actions; move++)
            {
                if (distances[move / Actions] >= 0 || !LeadsOn(move, length))
                    continue;
                (distances[move / Actions], found) = (length + 1, true);
            }
        }

        return distances;

        bool LeadsOn(int move, int length)
        {
            foreach (var outcome in _outcomes.AsSpan(_offsets[move].._offsets[move + 1]))
            {
                if (distances[outcome.Next] == length && (!outcome.Ends || outcome.Next == goal))
                    return true;
            }

            return false;
        }
    }

    /// <summary>The same world with a goal: moves that lead there end the episode, and no episode begins there.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The goal is no state.</exception>
    /// <exception cref="ArgumentException">It was the only start.</exception>
    public TabularWorld WithGoal(int goal)
    {
        RequireState(goal, nameof(goal));
        return new(
            States, Actions,
            (state, action) => Outcomes(state, action).ToArray().Select(move => move with { Ends = move.Ends || move.Next == goal }),
            _starts.Where(start => start != goal));
    }

    /// <summary>The outcome of a move that falls to a random number within [0, 1).</summary>
    internal Outcome Sample(int state, int action, double uniform)
    {
        var move = state * Actions + action;
        var at = _offsets[move];
        while (at < _offsets[move + 1] - 1 && _cumulative[at] <= uniform)
            at++;
        return _outcomes[at];
    }

    /// <summary>Refuses what is no state.</summary>
    internal void RequireState(int state, string name)
    {
        if ((uint)state >= (uint)States)
            throw new ArgumentOutOfRangeException(name, state, $"{name} is not within 0 and {States - 1}.");
    }

    private double[] Cumulative()
    {
        var cumulative = new double[_outcomes.Length];
        for (var move = 0; move < States * Actions; move++)
        {
            var sum = 0.0;
            for (var at = _offsets[move]; at < _offsets[move + 1]; at++)
                cumulative[at] = sum += _outcomes[at].Probability;
        }

        return cumulative;
    }

    private void CheckMove(Outcome[] outcomes, int move)
    {
        var sum = 0.0;
        foreach (var outcome in outcomes)
        {
            if ((uint)outcome.Next >= (uint)States)
                throw Refused($"leads to {outcome.Next}, which is not within 0 and {States - 1}");
            if (!(outcome.Probability is > 0 and <= 1)) // also catches NaN
                throw Refused($"has the probability {outcome.Probability.ToString(CultureInfo.InvariantCulture)}");
            sum += outcome.Probability;
        }

        if (Math.Abs(sum - 1) > SumSlack)
            throw Refused($"has probabilities that sum to {sum.ToString(CultureInfo.InvariantCulture)}");

        ArgumentException Refused(string what) =>
            new($"outcomes: action {move % Actions} in state {move / Actions} {what}", nameof(outcomes));
    }

    private void CheckPolicy(ReadOnlySpan<double> policy)
    {
        if (policy.Length != States * Actions)
            throw new ArgumentException($"policy: {policy.Length} elements do not match shape [{States}, {Actions}]", nameof(policy));
        for (var state = 0; state < States; state++)
        {
            var sum = 0.0;
            foreach (var probability in policy.Slice(state * Actions, Actions))
                sum += probability >= 0 ? probability : double.NaN;
            if (!(Math.Abs(sum - 1) <= 1e-6))
                throw new ArgumentException($"policy: the row of state {state} is no distribution", nameof(policy));
        }
    }
}
