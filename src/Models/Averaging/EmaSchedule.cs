using System.Globalization;

namespace AuxCore.Models;

/// <summary>The decay β of a moving average, as a function of the optimiser steps that it has followed so far. Immutable.</summary>
/// <remarks>
/// Time t is counted in optimiser steps: 0 at the first update that averages, and n more at each further one, where only every n-th step
/// updates (<see cref="EmaOptions.Every"/>). Half-life and power function allow for n, so that their width stays what was asked for; the
/// others give β(t) of one update, whatever n, as timm, ema-pytorch and diffusers do.
/// </remarks>
public abstract class EmaSchedule
{
    private protected EmaSchedule()
    {
    }

    /// <summary>β of the update at time t; within [0, 1].</summary>
    /// <param name="step">t, 0 for the first update.</param>
    /// <param name="every">The optimiser steps from one update to the next.</param>
    /// <exception cref="ArgumentOutOfRangeException">
    /// <paramref name="step"/> is negative, or <paramref name="every"/> is below 1.
    /// </exception>
    /// <exception cref="InvalidOperationException">A schedule of the caller's own gave NaN or a number outside [0, 1].</exception>
    public double DecayAt(long step, long every = 1)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(step);
        ArgumentOutOfRangeException.ThrowIfLessThan(every, 1);
        return Decay(step, every);
    }

    /// <summary>The same decay at every update.</summary>
    /// <param name="decay">β, within [0, 1].</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="decay"/> is NaN or outside [0, 1].</exception>
    public static EmaSchedule Constant(double decay) => new ConstantSchedule(InUnitInterval(decay, nameof(decay)));

    /// <summary>
    /// The constant decay that halves a value's weight every so many optimiser steps: β = 2^(−n/steps), n being the steps between updates.
    /// </summary>
    /// <param name="steps">The half-life in optimiser steps, above 0.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="steps"/> is not a number above 0.</exception>
    public static EmaSchedule HalfLife(double steps)
    {
        if (!(steps > 0))
            throw new ArgumentOutOfRangeException(nameof(steps), steps, "A half-life is above 0 steps.");
        return new HalfLifeSchedule(steps);
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

    /// <summary>
    /// A decay that grows with training: β(t) = clamp((1 + t)/(10 + t), minimum, maximum), but 0 at the first update, which copies the
    /// parameters. The form is that of diffusers' <c>EMAModel</c>, and but for the first update that of TensorFlow's moving averages.
    /// </summary>
    /// <param name="minimum">The least decay after the first update.</param>
    /// <param name="maximum">The greatest decay, not below <paramref name="minimum"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">A parameter is NaN or outside [0, 1], or the two are in the wrong order.</exception>
    public static EmaSchedule Ramp(double minimum = 0, double maximum = 0.9999)
    {
        InUnitInterval(minimum, nameof(minimum));
        InUnitInterval(maximum, nameof(maximum));
        ArgumentOutOfRangeException.ThrowIfLessThan(maximum, minimum);
        return new RampSchedule(minimum, maximum);
    }

    /// <summary>
    /// The average whose width is a fixed fraction of the training so far (Karras et al. 2024, "Analyzing and Improving the Training
    /// Dynamics of Diffusion Models", EDM2): a step at time τ weighs in proportion to τ^γ. With Δ steps between updates and
    /// t′ = t + Δ, β = (1 − Δ/t′)^(γ+1); the first update copies the parameters. Snapshots of such averages combine to other widths
    /// afterwards (<see cref="EmaModel.Synthesize"/>).
    /// </summary>
    /// <param name="sigma">
    /// The standard deviation of the weights over time, relative to the length of the training, above 0 and below 0.3. γ is the largest
    /// root of σ² = (γ+1)/((γ+2)²(γ+3)): 16.97 for 0.05, 6.94 for 0.10.
    /// </param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="sigma"/> is not within its range.</exception>
    public static EmaSchedule PowerFunction(double sigma) => new PowerFunctionSchedule(sigma);

    /// <summary>
    /// The plain mean of all updates (stochastic weight averaging, Izmailov et al. 2018): β = n/(n + 1) after n updates. The first copies.
    /// </summary>
    public static EmaSchedule Mean() => new MeanSchedule();

    /// <summary>A decay of the caller's own.</summary>
    /// <param name="decay">β as a function of t; it must lie within [0, 1], and depend on t only, or resuming is not exact.</param>
    /// <param name="name">What the state file calls it.</param>
    /// <exception cref="ArgumentNullException">An argument is null.</exception>
    public static EmaSchedule Custom(Func<long, double> decay, string name = "custom")
    {
        ArgumentNullException.ThrowIfNull(decay);
        ArgumentNullException.ThrowIfNull(name);
        return new CustomSchedule(decay, name);
    }

    /// <summary>No decay of this schedule is greater; 0 where that is not known before the update.</summary>
    internal abstract double Supremum(long every);

    private protected abstract double Decay(long step, long every);

    private static double InUnitInterval(double value, string name) => value is >= 0 and <= 1
        ? value
        : throw new ArgumentOutOfRangeException(name, value, "A decay lies within [0, 1].");

    /// <summary>σ and γ of a power-function average.</summary>
    internal sealed class PowerFunctionSchedule(double sigma) : EmaSchedule
    {
        public double Sigma { get; } = sigma;

        public double Gamma { get; } = PowerFunctionProfile.GammaOf(sigma);

        public override string ToString() => Text($"power function(sigma {Sigma:R})");

        internal override double Supremum(long every) => 1;

        private protected override double Decay(long step, long every) => Math.Pow(step / ((double)step + every), Gamma + 1);
    }

    private sealed class ConstantSchedule(double decay) : EmaSchedule
    {
        public override string ToString() => Text($"constant({decay:R})");

        internal override double Supremum(long every) => decay;

        private protected override double Decay(long step, long every) => decay;
    }

    private sealed class HalfLifeSchedule(double steps) : EmaSchedule
    {
        public override string ToString() => Text($"half-life({steps:R})");

        internal override double Supremum(long every) => Decay(0, every);

        private protected override double Decay(long step, long every) => Math.Pow(2, -every / steps);
    }

    private sealed class WarmUpSchedule(double gamma, double power, double minimum, double maximum) : EmaSchedule
    {
        public override string ToString() => Text($"warm-up(gamma {gamma:R}, power {power:R}, {minimum:R} to {maximum:R})");

        internal override double Supremum(long every) => maximum;

        private protected override double Decay(long step, long every) =>
            Math.Clamp(1 - Math.Pow(1 + step / gamma, -power), minimum, maximum);
    }

    private sealed class RampSchedule(double minimum, double maximum) : EmaSchedule
    {
        public override string ToString() => Text($"ramp({minimum:R} to {maximum:R})");

        internal override double Supremum(long every) => maximum;

        private protected override double Decay(long step, long every) =>
            step == 0 ? 0 : Math.Clamp((1.0 + step) / (10.0 + step), minimum, maximum);
    }

    private sealed class MeanSchedule : EmaSchedule
    {
        public override string ToString() => "mean";

        internal override double Supremum(long every) => 1;

        private protected override double Decay(long step, long every) => step / ((double)step + every);
    }

    private sealed class CustomSchedule(Func<long, double> decay, string name) : EmaSchedule
    {
        public override string ToString() => name;

        internal override double Supremum(long every) => 0;

        private protected override double Decay(long step, long every) => decay(step) is >= 0 and <= 1 and var value
            ? value
            : throw new InvalidOperationException(
                Text($"The schedule '{name}' gave {decay(step)} at step {step}; a decay lies within [0, 1]."));
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
