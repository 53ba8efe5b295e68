using AuxCore.Kernels;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Models;

/// <summary>What a <see cref="ForwardBackward"/> is made of. Defaults are those of <c>controllable_agent</c> where it has any.</summary>
public sealed record ForwardBackwardSettings
{
    /// <summary>The length of an observation.</summary>
    public required long ObservationSize { get; init; }

    /// <summary>A: the number of actions.</summary>
    public required int Actions { get; init; }

    /// <summary>d: the length of F, B and z.</summary>
    public int Dimension { get; init; } = 50;

    /// <summary>E: how many forward heads there are.</summary>
    public int Heads { get; init; } = 2;

    /// <summary>The width of the hidden layers.</summary>
    public long Hidden { get; init; } = 256;

    /// <summary>Discount, convention, target, orthonormality.</summary>
    public required FbOptions Loss { get; init; }

    /// <summary>
    /// Which successor measure F · B learns: <see cref="Start.Next"/>, that of the states after the current one, or
    /// <see cref="Start.Current"/>, which counts the current one too.
    /// </summary>
    public Start Start { get; init; } = Start.Next;

    /// <summary>Adam's learning rate.</summary>
    public double LearningRate { get; init; } = 1e-4;

    /// <summary>Adam's learning rate for B; <see cref="LearningRate"/> without.</summary>
    public double? BackwardLearningRate { get; init; }

    /// <summary>β of the target networks' moving average, within [0, 1).</summary>
    public double TargetDecay { get; init; } = 0.99;

    /// <summary>What fraction of each batch's z are B of states of the batch; the others are uniform on the sphere.</summary>
    public double GoalFraction { get; init; } = 0.5;

    /// <summary>
    /// The temperature of the softmax over actions that averages the next F; 0 takes the greedy action. Values are of the order of d, so
    /// 100 is nearly uniform at first.
    /// </summary>
    public double Temperature { get; init; } = 100;

    /// <summary>Seeds the initialisation and the z.</summary>
    public int Seed { get; init; }

    internal void Check(string name)
    {
        Sizes.RequirePositive(
            ($"{name}.{nameof(ObservationSize)}", ObservationSize), ($"{name}.{nameof(Actions)}", Actions),
            ($"{name}.{nameof(Dimension)}", Dimension), ($"{name}.{nameof(Heads)}", Heads), ($"{name}.{nameof(Hidden)}", Hidden));
        ArgumentNullException.ThrowIfNull(Loss, $"{name}.Loss");
        Loss.Check($"{name}.Loss");
        if (Start is not (Start.Current or Start.Next))
            throw new ArgumentOutOfRangeException(name, Start, $"{name}.Start: not a Start.");
        Require(LearningRate > 0 && double.IsFinite(LearningRate), nameof(LearningRate), LearningRate, "a rate is finite and above 0");
        Require(
            BackwardLearningRate is null or (> 0 and < double.PositiveInfinity), nameof(BackwardLearningRate), BackwardLearningRate,
            "a rate is finite and above 0");
        Require(TargetDecay is >= 0 and < 1, nameof(TargetDecay), TargetDecay, "a decay lies within [0, 1)");
        Require(GoalFraction is >= 0 and <= 1, nameof(GoalFraction), GoalFraction, "a fraction lies within [0, 1]");
        Require(Temperature >= 0 && double.IsFinite(Temperature), nameof(Temperature), Temperature, "a temperature is finite, at least 0");

        void Require(bool holds, string member, object? value, string rule)
        {
            if (!holds)
                throw new ArgumentOutOfRangeException(name, value, $"{name}.{member}: {rule}.");
        }
    }
}

/// <summary>Transitions as a <see cref="ForwardBackward"/> learns from them; n of them, at least 2.</summary>
/// <param name="Observations">[n, observation size], float32.</param>
/// <param name="Actions">[n], int64, each within [0, A).</param>
/// <param name="NextObservations">[n, observation size], float32.</param>
/// <param name="Done">[n], bool: whether the transition ended the episode.</param>
public sealed record TransitionBatch(Tensor Observations, Tensor Actions, Tensor NextObservations, Tensor Done);
