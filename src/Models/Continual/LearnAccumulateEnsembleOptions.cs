namespace AuxCore.Models;

/// <summary>Which expert predicts.</summary>
public enum LaeExpert
{
    /// <summary>For each class the larger of the two experts' probabilities.</summary>
    Ensemble,

    /// <summary>The one that learns.</summary>
    Online,

    /// <summary>The one that accumulates; before the second task, the online one.</summary>
    Offline,
}

/// <summary>How <see cref="LearnAccumulateEnsemble{TExpert}"/> learns.</summary>
public sealed record LearnAccumulateEnsembleOptions
{
    /// <summary>
    /// β of offline ← β · offline + (1 − β) · online after each step, within [0, 1]; 0.9999 in the paper, whose tasks have about a thousand
    /// steps. <see cref="DecayFor"/> gives that of shorter tasks.
    /// </summary>
    public double Decay { get; init; } = 0.9999;

    /// <summary>
    /// From the second task on, for how many steps only the new classifier learns; the paper's code takes three epochs of five.
    /// </summary>
    public long FreezeSteps { get; init; }

    /// <summary>The decay with which a task's steps leave the given share of what was there before.</summary>
    /// <param name="steps">Steps a task, at least 1.</param>
    /// <param name="kept">Within [0, 1]; 0.9 is about the paper's.</param>
    /// <exception cref="ArgumentOutOfRangeException">An argument is out of range.</exception>
    public static double DecayFor(long steps, double kept = 0.9)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(steps, 1);
        if (!(kept is >= 0 and <= 1))
            throw new ArgumentOutOfRangeException(nameof(kept), kept, "A share is within [0, 1].");
        return Math.Pow(kept, 1.0 / steps);
    }

    internal void Check(string name)
    {
        if (!(Decay is >= 0 and <= 1))
            throw new ArgumentOutOfRangeException(name, Decay, "Decay is within [0, 1].");
        if (FreezeSteps < 0)
            throw new ArgumentOutOfRangeException(name, FreezeSteps, "FreezeSteps is at least 0.");
    }
}
