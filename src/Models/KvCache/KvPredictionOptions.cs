namespace AuxCore.Models;

/// <summary>How <see cref="KvPrediction"/> is trained.</summary>
public sealed record KvPredictionOptions
{
    /// <summary>λ_B: the weight of the base's cross-entropy, given predicted keys and values.</summary>
    public double BaseWeight { get; init; } = 1;

    /// <summary>λ_A: the weight of the auxiliary model's own cross-entropy.</summary>
    public double AuxiliaryWeight { get; init; } = 1;

    /// <summary>
    /// λ_C: the weight of the cache loss, a sum over layers. Without, 1 / n_B, which the paper finds best (Table 2); the released code
    /// takes 1.
    /// </summary>
    public double? CacheWeight { get; init; }

    /// <summary>The weight of the squared log-partition in both cross-entropies (z-loss): 1e-4 as published.</summary>
    public double LogPartitionWeight { get; init; } = 1e-4;

    /// <summary>
    /// With a number p below the length of sequences: keys and values of the first p − 1 tokens are predicted, and the base reads the rest
    /// itself, which is what it does at inference on a prompt of p tokens. Without, all are predicted, as published.
    /// </summary>
    /// <remarks>Ours, not the paper's. The base's cross-entropy is then over the tokens behind the prompt.</remarks>
    public int? PromptLength { get; init; }

    /// <summary>Refuses what is no weight.</summary>
    internal void Check()
    {
        foreach (var (name, weight) in ((string, double)[])
            [
                (nameof(BaseWeight), BaseWeight), (nameof(AuxiliaryWeight), AuxiliaryWeight), (nameof(CacheWeight), CacheWeight ?? 0),
                (nameof(LogPartitionWeight), LogPartitionWeight),
            ])
        {
            if (!(weight >= 0 && double.IsFinite(weight)))
                throw new ArgumentOutOfRangeException(name, weight, "It is finite and not negative.");
        }

        if (PromptLength is { } length)
            ArgumentOutOfRangeException.ThrowIfLessThan(length, 2, nameof(PromptLength));
    }
}

/// <summary>The parts of the loss of <see cref="KvPrediction"/>, unweighted. Differentiable scalars, float32.</summary>
/// <param name="Total">The weighted sum, which is what one differentiates.</param>
/// <param name="Base">The base's cross-entropy, given predicted keys and values; nats a token.</param>
/// <param name="Auxiliary">The auxiliary model's cross-entropy; nats a token.</param>
/// <param name="Cache">Σ over layers of the mean absolute errors of keys, after the key norm, and of values.</param>
public sealed record KvPredictionLoss(
    TorchSharp.torch.Tensor Total, TorchSharp.torch.Tensor Base, TorchSharp.torch.Tensor Auxiliary, TorchSharp.torch.Tensor Cache);
