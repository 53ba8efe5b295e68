namespace AuxCore.Models;

/// <summary>
/// Averages of widths that were never trained, from snapshots of others (Karras et al. 2024, "Analyzing and Improving the Training Dynamics
/// of Diffusion Models"). A snapshot of a power-function average is a weighted mean of all parameters so far; so is the average that is
/// wanted; the combination of snapshots whose weights over time come nearest to the wanted ones is a least-squares problem of small size.
/// This class solves it; <see cref="EmaModel.SaveSnapshot"/> and <see cref="EmaModel.Synthesize"/> do the rest.
/// </summary>
public static class PostHocEma
{
    // A snapshot is left out when the others explain it to this fraction of its length: beyond it the solution is rounding errors.
    private const double SmallestPivot = 1e-12;

    /// <summary>
    /// The combination of snapshots that comes nearest to a width at a step. Needs no files: a plan can be tried beforehand.
    /// </summary>
    /// <param name="snapshots">
    /// Of each snapshot the step, above 0, counted from where the averages began, and the relative width σ of its power function.
    /// </param>
    /// <param name="sigma">The relative width that is wanted.</param>
    /// <param name="atStep">The step at which it is wanted, up to the last snapshot's.</param>
    /// <remarks>
    /// With ⟨p, q⟩ = ∫ p(τ) q(τ) dτ over the weights p, q that two averages give to time τ, A x = b is solved in double, where
    /// Aᵢⱼ = ⟨pᵢ, pⱼ⟩, bᵢ = ⟨pᵢ, p⟩ for the wanted p, and A is scaled to a diagonal of ones; by Cholesky's method with pivots. Then Σ x = 1
    /// is restored.
    /// </remarks>
    /// <exception cref="ArgumentNullException"><paramref name="snapshots"/> is null.</exception>
    /// <exception cref="ArgumentException">There are no snapshots, or two are the same.</exception>
    /// <exception cref="ArgumentOutOfRangeException">
    /// A step or width is out of its range, or the wanted step is past the last snapshot.
    /// </exception>
    public static PostHocWeights Solve(IReadOnlyList<(double Step, double Sigma)> snapshots, double sigma, double atStep)
    {
        ArgumentNullException.ThrowIfNull(snapshots);
        if (snapshots.Count == 0)
            throw new ArgumentException("snapshots: at least one", nameof(snapshots));
        foreach (var (step, _) in snapshots)
        {
            if (!(step > 0 && double.IsFinite(step)))
                throw new ArgumentOutOfRangeException(nameof(snapshots), step, "A snapshot's step is a number above 0.");
        }

        if (snapshots.Distinct().Count() < snapshots.Count)
            throw new ArgumentException("snapshots: two have the same step and width", nameof(snapshots));
        if (!(atStep > 0 && atStep <= snapshots.Max(snapshot => snapshot.Step)))
            throw new ArgumentOutOfRangeException(
                nameof(atStep), atStep, "The step lies above 0 and up to the last snapshot's: later parameters are in none of them.");

        PowerFunctionProfile[] profiles = [.. snapshots.Select(snapshot => PowerFunctionProfile.OfSigma(snapshot.Step, snapshot.Sigma))];
        var target = PowerFunctionProfile.OfSigma(atStep, sigma);
        return Combine(profiles, target);
    }

    private static PostHocWeights Combine(PowerFunctionProfile[] profiles, PowerFunctionProfile target)
    {
        var n = profiles.Length;
        double Length(PowerFunctionProfile profile) => Math.Sqrt(PowerFunctionProfile.Inner(profile, profile));
        double[] lengths = [.. profiles.Select(Length)];
        var gram = new double[n, n];
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < n; j++)
                gram[i, j] = PowerFunctionProfile.Inner(profiles[i], profiles[j]) / (lengths[i] * lengths[j]);
        }

        double[] wanted = [.. profiles.Select((profile, i) => PowerFunctionProfile.Inner(profile, target) / lengths[i])];
        var factor = new PivotedCholesky(gram, SmallestPivot);
        var scaled = factor.Solve(wanted);
        double[] weights = [.. scaled.Select((value, i) => value / lengths[i])];
        var sum = weights.Sum();
        for (var i = 0; i < n; i++)
            weights[i] /= sum;

        return new(weights, Error(profiles, weights, target), factor.Condition(), n - factor.Rank, Math.Sqrt(weights.Sum(x => x * x)));
    }

    // ‖Σ xᵢ pᵢ − p‖ / ‖p‖
    private static double Error(PowerFunctionProfile[] profiles, double[] weights, PowerFunctionProfile target)
    {
        var squared = PowerFunctionProfile.Inner(target, target);
        var length = squared;
        for (var i = 0; i < weights.Length; i++)
        {
            squared -= 2 * weights[i] * PowerFunctionProfile.Inner(profiles[i], target);
            for (var j = 0; j < weights.Length; j++)
                squared += weights[i] * weights[j] * PowerFunctionProfile.Inner(profiles[i], profiles[j]);
        }

        return Math.Sqrt(Math.Max(0, squared) / length);
    }
}

/// <summary>A combination of snapshots, by <see cref="PostHocEma.Solve"/>.</summary>
public sealed class PostHocWeights
{
    internal PostHocWeights(double[] weights, double error, double condition, int leftOut, double noiseGain)
    {
        Weights = weights;
        Error = error;
        Condition = condition;
        LeftOut = leftOut;
        NoiseGain = noiseGain;
    }

    /// <summary>x, one a snapshot, in their order. They add up to 1 and may be negative; 0 where a snapshot was left out.</summary>
    public IReadOnlyList<double> Weights { get; }

    /// <summary>
    /// The synthesis error: the root mean square distance between the weights over time that the combination gives and the wanted ones,
    /// relative to the latter. 0.01 is hardly to be told from a trained average; near 1 the snapshots do not have it in them.
    /// </summary>
    public double Error { get; }

    /// <summary>
    /// The condition number (1-norm) of the scaled system of the snapshots that were used: rounding errors may grow so many times over.
    /// Above 1e10 <see cref="EmaModel.Synthesize"/> reports it through <see cref="Interop.AuxRuntime.Log"/>.
    /// </summary>
    public double Condition { get; }

    /// <summary>How many snapshots were not used, because the others explain them to within rounding.</summary>
    public int LeftOut { get; }

    /// <summary>√Σx²: independent rounding errors of the snapshots' tensors appear so many times over in the result.</summary>
    public double NoiseGain { get; }
}
