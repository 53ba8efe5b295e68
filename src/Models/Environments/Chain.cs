namespace AuxCore.Models;

/// <summary>What happens at the ends of a <see cref="Chain"/>.</summary>
public enum ChainEnds
{
    /// <summary>A step outwards stays where it is.</summary>
    Bounce,

    /// <summary>A step that reaches an end is the episode's last; episodes begin between the ends.</summary>
    Absorb,
}

/// <summary>
/// States in a row, and two actions, left (0) and right (1). With a drift, some steps go one way whatever the action: then P is not
/// symmetric, and bootstrapping and regression learn different features.
/// </summary>
public static class Chain
{
    /// <summary>Makes a chain.</summary>
    /// <param name="states">How many states: at least 2, or 3 where the ends absorb.</param>
    /// <param name="drift">
    /// Within [−1, 1]: with the probability |drift| a step goes right (left for a negative one) whatever the action. Under the uniform
    /// policy a step goes right with the probability (1 + drift) / 2.
    /// </param>
    /// <param name="ends">What happens at the ends.</param>
    /// <exception cref="ArgumentOutOfRangeException">An argument is out of its range.</exception>
    public static TabularWorld World(int states, double drift = 0, ChainEnds ends = ChainEnds.Bounce)
    {
        if (ends is not (ChainEnds.Bounce or ChainEnds.Absorb))
            throw new ArgumentOutOfRangeException(nameof(ends), ends, "Not a ChainEnds.");
        var absorbs = ends == ChainEnds.Absorb;
        ArgumentOutOfRangeException.ThrowIfLessThan(states, absorbs ? 3 : 2);
        if (!(Math.Abs(drift) <= 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(drift), drift, "A drift lies within [-1, 1].");

        return new(states, 2, Outcomes, absorbs ? Enumerable.Range(1, states - 2) : null);

        IEnumerable<Outcome> Outcomes(int state, int action)
        {
            if (absorbs && (state == 0 || state == states - 1))
            {
                yield return Step(state, 1); // only who was put there
                yield break;
            }

            var right = action == 1 ? (drift < 0 ? 1 + drift : 1) : (drift > 0 ? drift : 0);
            if (right < 1)
                yield return Step(Math.Max(state - 1, 0), 1 - right);
            if (right > 0)
                yield return Step(Math.Min(state + 1, states - 1), right);
        }

        Outcome Step(int next, double probability) => new(next, probability, absorbs && (next == 0 || next == states - 1));
    }
}
