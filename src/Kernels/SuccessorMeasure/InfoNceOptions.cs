namespace AuxCore.Kernels;

/// <summary>The logit of a query φ and a key ψ; all are divided by the temperature.</summary>
public enum InfoNceSimilarity
{
    /// <summary>−√(‖φ − ψ‖² + offset). Where the distance is 0 and the offset too, it has no gradient.</summary>
    NegativeDistance,

    /// <summary>−‖φ − ψ‖².</summary>
    NegativeSquaredDistance,

    /// <summary>φ · ψ.</summary>
    Dot,

    /// <summary>φ · ψ / (‖φ‖ ‖ψ‖). A zero vector has 0 with every other, and no gradient.</summary>
    Cosine,
}

/// <summary>Over what the softmax goes.</summary>
public enum InfoNceDirection
{
    /// <summary>Over the keys of each query. For the other way round, exchange queries and keys.</summary>
    Forward,

    /// <summary>Over the keys of each query and over the queries of each key; the sum of both losses.</summary>
    Symmetric,
}

/// <summary>What <see cref="InfoNceLoss"/> computes. Without more it is the plain forward loss on negative distances.</summary>
public sealed record InfoNceOptions
{
    /// <summary>
    /// JaxGCRL's critic (Bortkiewicz et al. 2025, <c>crl/losses.py</c>): −√(‖φ − ψ‖² + 10⁻⁶), forward, penalty 0.1. The 10⁻⁶ that it adds
    /// to the logits in the penalty is left out.
    /// </summary>
    public static InfoNceOptions JaxGcrl { get; } = new() { DistanceOffset = 1e-6, LogSumExpPenalty = 0.1 };

    /// <summary><c>controllable_agent</c>'s contrastive features (<c>sf.py</c>): cosines, the positive not among the negatives.</summary>
    public static InfoNceOptions ControllableAgent { get; } =
        new() { Similarity = InfoNceSimilarity.Cosine, ExcludePositives = true };

    /// <summary>The logits.</summary>
    public InfoNceSimilarity Similarity { get; init; } = InfoNceSimilarity.NegativeDistance;

    /// <summary>Forward or symmetric.</summary>
    public InfoNceDirection Direction { get; init; } = InfoNceDirection.Forward;

    /// <summary>What logits are divided by; above 0.</summary>
    public double Temperature { get; init; } = 1;

    /// <summary>The weight of the mean squared logsumexp over the keys of each query; at least 0.</summary>
    public double LogSumExpPenalty { get; init; }

    /// <summary>Whether the logsumexp leaves out the positive pair itself.</summary>
    public bool ExcludePositives { get; init; }

    /// <summary>
    /// What is added to the squared distance under the root of <see cref="InfoNceSimilarity.NegativeDistance"/>; at least 0.
    /// </summary>
    public double DistanceOffset { get; init; }

    internal bool IsSymmetric => Direction == InfoNceDirection.Symmetric;

    internal bool IsDistance => Similarity is InfoNceSimilarity.NegativeDistance or InfoNceSimilarity.NegativeSquaredDistance;

    internal void Check(string name)
    {
        if (!(Temperature > 0 && double.IsFinite(Temperature))) // also catches NaN
            throw new ArgumentOutOfRangeException(name, Temperature, $"{name}.Temperature: a temperature is finite and above 0.");
        if (!(LogSumExpPenalty >= 0 && double.IsFinite(LogSumExpPenalty)))
            throw new ArgumentOutOfRangeException(name, LogSumExpPenalty, $"{name}.LogSumExpPenalty: a weight is finite and at least 0.");
        if (!(DistanceOffset >= 0 && double.IsFinite(DistanceOffset)))
            throw new ArgumentOutOfRangeException(name, DistanceOffset, $"{name}.DistanceOffset: an offset is finite and at least 0.");
        if (!Enum.IsDefined(Similarity) || !Enum.IsDefined(Direction))
            throw new ArgumentOutOfRangeException(name, $"{name}: Similarity {Similarity} or Direction {Direction} is none.");
    }
}

/// <summary>The parts of an InfoNCE loss; the loss is their sum.</summary>
/// <param name="Contrast">The mean of logsumexp less the positive's logit, of both directions where the loss is symmetric.</param>
/// <param name="Penalty">The weighted mean squared logsumexp.</param>
public readonly record struct InfoNceTerms(double Contrast, double Penalty)
{
    /// <summary>The loss.</summary>
    public double Total => Contrast + Penalty;
}
