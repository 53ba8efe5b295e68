using System.Globalization;

namespace AuxCore.Models;

/// <summary>The decay β of an exponential moving average, as a function of how many updates it has had. Immutable.</summary>
public abstract class EmaSchedule
{
    private protected EmaSchedule()
    {
    }

    /// <summary>β of the update that follows <paramref name="step"/> earlier ones; within [0, 1].</summary>
    /// <param name="step">Updates done so far, 0 for the first.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="step"/> is negative.</exception>
    public double DecayAt(long step)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(step);
        return Decay(step);
    }

    /// <summary>The same decay at every step.</summary>
    /// <param name="decay">β, within [0, 1].</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="decay"/> is NaN or outside [0, 1].</exception>
    public static EmaSchedule Constant(double decay) => new ConstantSchedule(InUnitInterval(decay, nameof(decay)));

    /// <summary>The constant decay that halves a value's weight every so many updates: β = 2^(−1/steps).</summary>
    /// <param name="steps">The half-life in updates, above 0.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="steps"/> is not a number above 0.</exception>
    public static EmaSchedule HalfLife(double steps)
    {
        if (!(steps > 0))
            throw new ArgumentOutOfRangeException(nameof(steps), steps, "A half-life is above 0 updates.");
        return new ConstantSchedule(Math.Pow(2, -1 / steps));
    }

    /// <summary>
    /// A decay that grows with training: β(t) = clamp(1 − (1 + t/γ)^(−p), minimum, maximum). The first update copies the parameters (unless
    /// <paramref name="minimum"/> forbids it), so the untrained initialisation leaves no trace. The form is that of timm and ema-pytorch.
    /// </summary>
    /// <param name="gamma">γ, above 0: the scale of t.</param>
    /// <param name="power">p, above 0: 2/3 reaches 0.999 after some 31,600 updates at γ = 1, 3/4 after some 10,000.</param>
    /// <param name="minimum">The least decay.</param>
    /// <param name="maximum">The greatest decay, not below <paramref name="minimum"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">A parameter is NaN or out of its range.</exception>
    public static EmaSchedule WarmUp(double gamma = 1, double power = 2.0 / 3, double minimum = 0, double maximum = 0.9999)
    {
        if (!(gamma > 0))
            throw new ArgumentOutOfRangeException(nameof(gamma), gamma, "γ is above 0.");
        if (!(power > 0))
            throw new ArgumentOutOfRangeException(nameof(power), power, "The power is above 0.");
        InUnitInterval(minimum, nameof(minimum));
        InUnitInterval(maximum, nameof(maximum));
        ArgumentOutOfRangeException.ThrowIfLessThan(maximum, minimum);
        return new WarmUpSchedule(gamma, power, minimum, maximum);
    }

    private protected abstract double Decay(long step);

    private static double InUnitInterval(double value, string name) => value is >= 0 and <= 1
        ? value
        : throw new ArgumentOutOfRangeException(name, value, "A decay lies within [0, 1].");

    private sealed class ConstantSchedule(double decay) : EmaSchedule
    {
        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"constant({decay:R})");

        private protected override double Decay(long step) => decay;
    }

    private sealed class WarmUpSchedule(double gamma, double power, double minimum, double maximum) : EmaSchedule
    {
        public override string ToString() =>
            string.Create(CultureInfo.InvariantCulture, $"warm-up(gamma {gamma:R}, power {power:R}, {minimum:R} to {maximum:R})");

        private protected override double Decay(long step) => Math.Clamp(1 - Math.Pow(1 + step / gamma, -power), minimum, maximum);
    }
}
