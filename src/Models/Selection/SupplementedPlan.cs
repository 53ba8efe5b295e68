using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// Kept tokens, to whose rows something of the dropped ones is added: VisionZip's contextual tokens, PruMerge's neighbours.
/// </summary>
/// <param name="plan">What is kept; disposed with this.</param>
/// <param name="supplement">What is added, with a row for each kept token; disposed with this.</param>
internal sealed class SupplementedPlan(TokenPlan plan, TokenReduction supplement) : TokenReduction(plan.Layout, plan.Counts)
{
    public override Tensor Apply(Tensor tokens)
    {
        using var scope = torch.NewDisposeScope();
        return (plan.Apply(tokens) + supplement.Apply(tokens)).MoveToOuterDisposeScope();
    }

    public override Tensor Sizes(Tensor? before = null)
    {
        using var scope = torch.NewDisposeScope();
        return (plan.Sizes(before) + supplement.Sizes(before)).MoveToOuterDisposeScope();
    }

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (!disposing)
            return;
        plan.Dispose();
        supplement.Dispose();
    }
}

/// <summary>Sums of tokens by a matrix of weights, for groups that share tokens.</summary>
internal sealed class WeightedSums : TokenReduction
{
    private readonly Tensor _weights;

    /// <param name="plan">Whose kept tokens the rows are added to.</param>
    /// <param name="weights">float32 [B, K, L].</param>
    public WeightedSums(TokenPlan plan, Tensor weights) : base(plan.Layout, plan.Counts) => _weights = Own(weights);

    public override Tensor Apply(Tensor tokens)
    {
        RequireLive();
        Layout.Require(tokens, 1, 0, nameof(tokens), "merging");
        using var scope = torch.NewDisposeScope();
        var rows = tokens.shape.Length == 2 ? tokens.unsqueeze(2) : tokens.flatten(2);
        return torch.bmm(_weights.to(tokens.dtype), rows).view([Images, Length, .. tokens.shape[2..]]).MoveToOuterDisposeScope();
    }

    /// <summary>Nothing: a token that is in many sums stands for none of them.</summary>
    public override Tensor Sizes(Tensor? before = null) => torch.zeros(Images, Length);
}
