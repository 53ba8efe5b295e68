using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>
/// What a block's auxiliary classifier gets to see of the block's output x. LB and E are the layer that follows the block, twice: LB is
/// trained with the block, E is a moving average of that layer's parameters and gets no gradient.
/// </summary>
public enum AuxiliaryInput
{
    /// <summary>x: local learning alone (Belilovsky et al. 2020).</summary>
    Output,

    /// <summary>LB(x): another trained layer, and nothing of the next block; what an average has to be compared with.</summary>
    TrainableCopy,

    /// <summary>E(x): the average alone.</summary>
    Momentum,

    /// <summary>LB(x) + E(x): the Momentum Auxiliary Network as its code has it, where LB is called the learnable bias.</summary>
    MomentumAndCopy,

    /// <summary>
    /// γ ⊙ E(x) + β with a trained γ and β a channel: the learnable scaling bias of MAN++. The form is our reading of the paper's words;
    /// neither its formula nor its code was at hand.
    /// </summary>
    ScaledMomentum,
}

/// <summary>How a <see cref="LocalTrainer"/> trains blocks.</summary>
public sealed record LocalLearningOptions
{
    /// <summary>What auxiliary classifiers see.</summary>
    public AuxiliaryInput Input { get; init; } = AuxiliaryInput.MomentumAndCopy;

    /// <summary>m in E ← m · E + (1 − m) · layer, within [0, 1]; 0.995 in the paper, 1 leaves E as it began.</summary>
    public double Momentum { get; init; } = 0.995;

    /// <summary>
    /// The loss of a block: what its classifier says, and the target, to a scalar. Null: cross-entropy of logits [n, classes] with classes
    /// [n], int64.
    /// </summary>
    public Func<Tensor, Tensor, Tensor>? Loss { get; init; }

    internal bool HasCopy => Input is AuxiliaryInput.TrainableCopy or AuxiliaryInput.MomentumAndCopy;

    internal bool HasMomentum => Input is AuxiliaryInput.Momentum or AuxiliaryInput.MomentumAndCopy or AuxiliaryInput.ScaledMomentum;

    internal void Check(string name)
    {
        if (!Enum.IsDefined(Input))
            throw new ArgumentOutOfRangeException(name, Input, "Not an input of auxiliary classifiers.");
        if (!(Momentum is >= 0 and <= 1))
            throw new ArgumentOutOfRangeException(name, Momentum, "Momentum is within [0, 1].");
    }
}
