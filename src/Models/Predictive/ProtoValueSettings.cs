using AuxCore.Kernels;

namespace AuxCore.Models;

/// <summary>
/// What a <see cref="ProtoValueNetwork"/> is made of, and how it learns. Rates and decays are those of google-research's
/// <c>pvn/configs/dsm</c>, sizes those of small pictures.
/// </summary>
public sealed record ProtoValueSettings
{
    /// <summary>C: an observation is [C, H, W].</summary>
    public required int Channels { get; init; }

    /// <summary>H.</summary>
    public int Height { get; init; } = ArcadeEnvironment.Size;

    /// <summary>W.</summary>
    public int Width { get; init; } = ArcadeEnvironment.Size;

    /// <summary>A: the number of actions.</summary>
    public required int Actions { get; init; }

    /// <summary>T: the number of sets of states.</summary>
    public int Tasks { get; init; } = 100;

    /// <summary>F: the length of the features.</summary>
    public int Features { get; init; } = 256;

    /// <summary>How many filters the encoder's convolution has.</summary>
    public int Filters { get; init; } = 16;

    /// <summary>γ, within [0, 1).</summary>
    public double Discount { get; init; } = 0.99;

    /// <summary>Whether the current state counts (the default, as published), or only those after it.</summary>
    public Start Start { get; init; } = Start.Current;

    /// <summary>Whether the measure is multiplied by 1 − γ, so that it lies within 0 and 1.</summary>
    public bool Normalised { get; init; }

    /// <summary>β of the target network's moving average, within [0, 1).</summary>
    public double TargetDecay { get; init; } = 0.99;

    /// <summary>Adam's learning rate.</summary>
    public double LearningRate { get; init; } = 1.05e-4;

    /// <summary>Adam's ε.</summary>
    public double Epsilon { get; init; } = 1.5e-4;

    /// <summary>Seeds encoder and heads.</summary>
    public int Seed { get; init; }

    internal SuccessorMeasureSettings Objective => new()
    {
        Features = Features, Actions = Actions, Start = Start, Normalised = Normalised, TargetDecay = TargetDecay, Seed = Seed,
    };

    internal void Check(string name)
    {
        Sizes.RequirePositive(
            ($"{name}.{nameof(Channels)}", Channels), ($"{name}.{nameof(Height)}", Height), ($"{name}.{nameof(Width)}", Width),
            ($"{name}.{nameof(Tasks)}", Tasks), ($"{name}.{nameof(Filters)}", Filters));
        Objective.Check(name);
        SuccessorArguments.CheckDiscount(Discount);
        Require(LearningRate, nameof(LearningRate));
        Require(Epsilon, nameof(Epsilon));

        void Require(double value, string member)
        {
            if (!(value >= 0 && double.IsFinite(value))) // also catches NaN
                throw new ArgumentOutOfRangeException(name, value, $"{name}.{member}: it is finite and at least 0.");
        }
    }
}
