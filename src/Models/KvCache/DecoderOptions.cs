using AuxCore.Kernels;
using TorchSharp;

namespace AuxCore.Models;

/// <summary>The sizes of one layer of a <see cref="CausalDecoder"/>.</summary>
/// <param name="QueryHeads">Hq, a multiple of <paramref name="KvHeads"/>.</param>
/// <param name="KvHeads">Hkv: heads of keys and values.</param>
/// <param name="FeedForward">The width between the two halves of the gated feed-forward network.</param>
public readonly record struct DecoderLayerSizes(int QueryHeads, int KvHeads, int FeedForward);

/// <summary>
/// What a <see cref="CausalDecoder"/> is made of: the family of Llama (Touvron et al. 2023, arXiv 2302.13971), Qwen2 (arXiv 2407.10671),
/// Qwen3 (arXiv 2505.09388) and OpenELM (Mehta et al. 2024, arXiv 2404.14619), whose layers differ in size.
/// </summary>
public sealed record DecoderOptions
{
    /// <summary>How many tokens there are.</summary>
    public required int Vocabulary { get; init; }

    /// <summary>D: the width of hidden states.</summary>
    public required int Width { get; init; }

    /// <summary>d: elements of a head, the same in all layers.</summary>
    public required int HeadDim { get; init; }

    /// <summary>The sizes of each layer.</summary>
    public required IReadOnlyList<DecoderLayerSizes> Layers { get; init; }

    /// <summary>
    /// The rotary embedding of queries and keys: by halves, and without sections. <see cref="RotaryOptions.Frequencies"/> takes those that
    /// a checkpoint has scaled.
    /// </summary>
    public RotaryOptions Rotary { get; init; } = new();

    /// <summary>ε of the root mean square norms: 1e-5 or 1e-6 in checkpoints.</summary>
    public double NormEpsilon { get; init; } = 1e-6;

    /// <summary>Whether the projections to queries, keys and values have a bias, as in Qwen2.</summary>
    public bool QkvBias { get; init; }

    /// <summary>Whether the projection of the attention's output has a bias.</summary>
    public bool OutputBias { get; init; }

    /// <summary>Whether the feed-forward projections have a bias.</summary>
    public bool FeedForwardBias { get; init; }

    /// <summary>Whether each head of queries and keys is normalised before it is rotated, as in Qwen3 and OpenELM.</summary>
    public bool QueryKeyNorm { get; init; }

    /// <summary>Whether the head is the transposed embedding.</summary>
    public bool TiedHead { get; init; }

    /// <summary>Standard deviation of the initial weights of projections and embedding; biases begin as 0, norms as 1.</summary>
    public double InitialDeviation { get; init; } = 0.02;

    /// <summary>
    /// What the weights of projections and embedding are stored in: float32, or bfloat16, which takes half the memory and, on processors
    /// that multiply it, half the time. Operands of products are then rounded to bfloat16; norms, rotation, attention and what layers add
    /// up stay float32.
    /// </summary>
    public torch.ScalarType WeightType { get; init; } = torch.ScalarType.Float32;

    /// <summary>A decoder whose layers are all alike.</summary>
    /// <param name="vocabulary">How many tokens there are.</param>
    /// <param name="width">D.</param>
    /// <param name="layers">How many layers.</param>
    /// <param name="queryHeads">Hq, a multiple of <paramref name="kvHeads"/>.</param>
    /// <param name="kvHeads">Hkv.</param>
    /// <param name="feedForward">The width between the halves of the feed-forward network.</param>
    /// <param name="headDim">d; <paramref name="width"/> / <paramref name="queryHeads"/> without.</param>
    /// <exception cref="ArgumentException">Heads do not divide the width, and no <paramref name="headDim"/> is given.</exception>
    public static DecoderOptions Uniform(
        int vocabulary, int width, int layers, int queryHeads, int kvHeads, int feedForward, int? headDim = null)
    {
        Sizes.RequirePositive((nameof(layers), layers), (nameof(queryHeads), queryHeads));
        if (headDim is null && width % queryHeads != 0)
        {
            throw new ArgumentException(
                $"width: {width} is not a multiple of {queryHeads} query heads; give headDim as well", nameof(width));
        }

        return new()
        {
            Vocabulary = vocabulary,
            Width = width,
            HeadDim = headDim ?? width / queryHeads,
            Layers = [.. Enumerable.Repeat(new DecoderLayerSizes(queryHeads, kvHeads, feedForward), layers)],
        };
    }

    /// <summary>Refuses sizes that do not go together.</summary>
    internal void Check()
    {
        Sizes.RequirePositive((nameof(Vocabulary), Vocabulary), (nameof(Width), Width), (nameof(HeadDim), HeadDim));
        ArgumentNullException.ThrowIfNull(Layers);
        ArgumentNullException.ThrowIfNull(Rotary);
        if (Layers.Count == 0)
            throw new ArgumentException("options.Layers: there are none");
        for (var i = 0; i < Layers.Count; i++)
        {
            var (queryHeads, kvHeads, feedForward) = Layers[i];
            Sizes.RequirePositive(
                ($"Layers[{i}].QueryHeads", queryHeads), ($"Layers[{i}].KvHeads", kvHeads), ($"Layers[{i}].FeedForward", feedForward));
            if (queryHeads % kvHeads != 0)
            {
                throw new ArgumentException(
                    $"options.Layers[{i}]: {queryHeads} query heads are not a multiple of {kvHeads} heads of keys and values");
            }
        }

        Projections.RequireWeightType(WeightType, nameof(WeightType));
        Rotary.Check(HeadDim);
        if (Rotary.Layout != RotaryLayout.Halves || Rotary.Sections.Count > 0)
            throw new ArgumentException("options.Rotary: this decoder rotates by halves, and all pairs by one position");
        if (!(NormEpsilon > 0 && double.IsFinite(NormEpsilon)))
            throw new ArgumentOutOfRangeException(nameof(NormEpsilon), NormEpsilon, "It is finite and above 0.");
        if (!(InitialDeviation >= 0 && double.IsFinite(InitialDeviation)))
            throw new ArgumentOutOfRangeException(nameof(InitialDeviation), InitialDeviation, "It is finite and not negative.");
    }
}
