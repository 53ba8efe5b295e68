using AuxCore.Interop;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// What a <see cref="TokenPolicy"/> sees of the layer in which it reduces tokens. Sequences begin with tokens that are always kept, such as
/// a class token; all others are visual.
/// </summary>
public sealed class PruningLayer
{
    /// <summary>[B, L, D]: the rows that are reduced.</summary>
    public required Tensor Hidden { get; init; }

    /// <summary>[B, heads, L, d]: the queries of the layer's attention.</summary>
    public required Tensor Queries { get; init; }

    /// <summary>[B, heads, L, d]: its keys.</summary>
    public required Tensor Keys { get; init; }

    /// <summary>How many tokens at the beginning are always kept.</summary>
    public int Protected { get; init; }

    /// <summary>How many tokens each sequence has, from the first; what is behind is padding. Null: all have L.</summary>
    public IReadOnlyList<int>? Lengths { get; init; }

    /// <summary>float32 [B, L]: how many tokens each stands for; null where each stands for itself.</summary>
    public Tensor? Sizes { get; init; }

    /// <summary>Where kernels run; Auto takes what fits the memory.</summary>
    public AuxBackend Backend { get; init; }

    /// <summary>B.</summary>
    public int Images => checked((int)Hidden.shape[0]);

    /// <summary>L.</summary>
    public int Length => checked((int)Hidden.shape[1]);

    /// <summary>Places for visual tokens: L − <see cref="Protected"/>.</summary>
    public int VisualTokens => Length - Protected;

    /// <summary>How many visual tokens an image has.</summary>
    public int VisualTokensOf(int image) => (Lengths?[image] ?? Length) - Protected;

    /// <summary>The part of the visual tokens: a view.</summary>
    /// <param name="tensor">A tensor with a dimension for tokens.</param>
    /// <param name="tokenAxis">Which one it is.</param>
    public Tensor Visual(Tensor tensor, int tokenAxis = 1)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return tensor.narrow(tokenAxis, Protected, VisualTokens);
    }

    /// <summary>
    /// Where each image's visual tokens begin if they lie one after the other, as <see cref="TokenPlan.Select"/> takes it; null where all
    /// images have as many.
    /// </summary>
    internal Tensor? VisualSegments()
    {
        if (Lengths is null)
            return null;
        var bounds = new int[Images + 1];
        for (var b = 0; b < Images; b++)
            bounds[b + 1] = bounds[b] + VisualTokensOf(b);
        return torch.tensor(bounds);
    }

    /// <summary>Refuses what does not go together, before a policy or a kernel sees it.</summary>
    internal void Require()
    {
        Batches.Require(Hidden, nameof(Hidden));
        Batches.Require(Queries, nameof(Queries));
        Batches.Require(Keys, nameof(Keys));
        if (Hidden.shape.Length != 3)
            throw new ArgumentException($"Hidden: {Batches.Describe(Hidden)} is not [images, tokens, width]", nameof(Hidden));
        RequireHeads(Queries, nameof(Queries));
        RequireHeads(Keys, nameof(Keys));
        if (Protected < 0 || Protected > Length)
            throw new ArgumentException($"Protected: {Protected} tokens are not within 0 and {Length}", nameof(Protected));
        if (Lengths is not null
            && (Lengths.Count != Images || Lengths.Any(length => length < Protected || length > Length)))
        {
            throw new ArgumentException(
                $"Lengths: [{string.Join(", ", Lengths)}] are not {Images} numbers within {Protected} and {Length}", nameof(Lengths));
        }

        if (Sizes is not null)
            TokenMerging.RequireSizes(Sizes, TokenLayout.Padded(Images, Length), nameof(Sizes));
    }

    private void RequireHeads(Tensor tensor, string name)
    {
        if (tensor.shape.Length != 4 || tensor.shape[0] != Images || tensor.shape[2] != Length)
        {
            throw new ArgumentException(
                $"{name}: {Batches.Describe(tensor)} is not [{Images}, heads, {Length}, depth], as Hidden, {Batches.Describe(Hidden)}",
                name);
        }
    }
}
