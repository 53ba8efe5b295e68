namespace AuxCore.Models;

/// <summary>
/// A power-function average at a point of training (Karras et al. 2024): the weights p(τ) = (γ+1) τ^γ / t^(γ+1) on [0, t] that it gives to
/// the parameters of time τ.
/// </summary>
/// <param name="Step">t, in optimiser steps, above 0.</param>
/// <param name="Gamma">γ, above −½.</param>
internal readonly record struct PowerFunctionProfile(double Step, double Gamma)
{
    // Where σ² = (γ+1)/((γ+2)²(γ+3)) is greatest: γ² + 3γ + 1 = 0. To the right of it, σ falls as γ grows.
    private static readonly double GammaAtLargestSigma = (Math.Sqrt(5) - 3) / 2;

    /// <summary>The profile of relative standard deviation σ.</summary>
    public static PowerFunctionProfile OfSigma(double step, double sigma) => new(step, GammaOf(sigma));

    /// <summary>Whether some profile has this relative standard deviation.</summary>
    public static bool IsSigma(double sigma) => sigma > 1e-6 && sigma < SigmaOf(GammaAtLargestSigma);

    /// <summary>The largest root γ of σ² = (γ+1)/((γ+2)²(γ+3)).</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is none: σ is not above 0 and below 0.3003.</exception>
    public static double GammaOf(double sigma)
    {
        double low = GammaAtLargestSigma, high = 1 / sigma;
        if (!IsSigma(sigma))
            throw new ArgumentOutOfRangeException(
                nameof(sigma), sigma, "The relative width of a power-function average lies above 0 and below 0.3.");
        while (SigmaOf(high) > sigma)
            high *= 2;
        while (true)
        {
            var middle = low + (high - low) / 2;
            if (middle == low || middle == high)
                return middle;
            (low, high) = SigmaOf(middle) > sigma ? (middle, high) : (low, middle);
        }
    }

    /// <summary>The relative standard deviation of a profile.</summary>
    public static double SigmaOf(double gamma) => Math.Sqrt((gamma + 1) / ((gamma + 2) * (gamma + 2) * (gamma + 3)));

    /// <summary>∫ p(τ) q(τ) dτ over the times that both know.</summary>
    public static double Inner(PowerFunctionProfile p, PowerFunctionProfile q)
    {
        var (shorter, longer) = p.Step < q.Step ? (p, q) : (q, p);
        return (p.Gamma + 1) * (q.Gamma + 1) * Math.Pow(shorter.Step / longer.Step, longer.Gamma)
            / ((p.Gamma + q.Gamma + 1) * longer.Step);
    }
}
