namespace AuxCore.Kernels;

/// <summary>The hyper-parameters of one <see cref="AdamWUpdate"/>, with the number of the step. Immutable.</summary>
public readonly record struct AdamWSettings
{
    /// <summary>The defaults of PyTorch's Adam, for the first step; weight decay is 0.</summary>
    public AdamWSettings()
    {
    }

    /// <summary>t, the number of the step, from 1: the moments' bias is corrected by it.</summary>
    public long Step { get; init; } = 1;

    /// <summary>α, at least 0.</summary>
    public double LearningRate { get; init; } = 1e-3;

    /// <summary>β₁, the decay of the first moment, within [0, 1).</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>β₂, the decay of the second moment, within [0, 1).</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>
    /// ε, at least 0, added to the root of the second moment. With 0, a parameter without any gradient so far becomes NaN.
    /// </summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>λ, at least 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>
    /// True (AdamW): the parameter shrinks by α · λ · itself. False (Adam): λ · parameter is added to the gradient, as an L2 penalty.
    /// </summary>
    public bool Decoupled { get; init; } = true;

    /// <summary>Whether to follow the gradient instead of descending.</summary>
    public bool Maximize { get; init; }

    /// <summary>Checks all fields.</summary>
    /// <param name="name">What messages call these settings.</param>
    /// <exception cref="ArgumentOutOfRangeException">A field is NaN or out of its range; the message names it.</exception>
    internal void Check(string name)
    {
        Require(Step >= 1, nameof(Step), Step, "counts from 1");
        Require(double.IsFinite(LearningRate) && LearningRate >= 0, nameof(LearningRate), LearningRate, "is a finite number, at least 0");
        Require(Beta1 is >= 0 and < 1, nameof(Beta1), Beta1, "lies within [0, 1)");
        Require(Beta2 is >= 0 and < 1, nameof(Beta2), Beta2, "lies within [0, 1)");
        Require(double.IsFinite(Epsilon) && Epsilon >= 0, nameof(Epsilon), Epsilon, "is a finite number, at least 0");
        Require(double.IsFinite(WeightDecay) && WeightDecay >= 0, nameof(WeightDecay), WeightDecay, "is a finite number, at least 0");

        void Require(bool holds, string field, object value, string rule)
        {
            if (!holds)
                throw new ArgumentOutOfRangeException($"{name}.{field}", value, $"{field} {rule}.");
        }
    }
}

/// <summary>
/// <see cref="AdamWSettings"/> as the kernels use them: float32, each formed in double and rounded once. <see cref="AdamWUpdate"/>'s
/// remarks have the formulas.
/// </summary>
internal readonly record struct AdamWCoefficients(
    float GradientScale, float Penalty, float Weight1, float Weight2, float Epsilon, float StepSize, float Shrinkage)
{
    /// <param name="settings">Checked.</param>
    /// <param name="gradientScale">What the gradient is multiplied by: the inverse of a loss scale, a clip factor, or both.</param>
    public static AdamWCoefficients Of(in AdamWSettings settings, double gradientScale)
    {
        var correction1 = 1 - Math.Pow(settings.Beta1, settings.Step);
        var rootOfCorrection2 = Math.Sqrt(1 - Math.Pow(settings.Beta2, settings.Step));
        return new(
            (float)(settings.Maximize ? -gradientScale : gradientScale),
            settings.Decoupled ? 0 : (float)settings.WeightDecay,
            (float)(1 - settings.Beta1),
            (float)(1 - settings.Beta2),
            (float)(settings.Epsilon * rootOfCorrection2),
            (float)(settings.LearningRate * rootOfCorrection2 / correction1),
            settings.Decoupled ? (float)(settings.LearningRate * settings.WeightDecay) : 0);
    }
}
