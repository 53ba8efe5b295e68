using System.Globalization;
using AuxCore.Bench.Workloads;
using TorchSharp;

namespace AuxCore.Bench.Experiments;

/// <summary>Everything that the experiment has measured.</summary>
/// <param name="Samples">On what.</param>
/// <param name="Source">Where the text is from.</param>
/// <param name="Missing">The trainings that were not there.</param>
/// <param name="Plan">The sizes of the models.</param>
internal sealed record KvpOutcome(KvpSamples Samples, string Source, IReadOnlyList<string> Missing, KvpPlan Plan)
{
    /// <summary>Figures by arm, one a variant.</summary>
    public Dictionary<KvpArm, KvpFigures[]> Arms { get; } = [];

    /// <summary>Times by name of the arm.</summary>
    public List<(string Arm, KvpTime Time)> Times { get; } = [];

    /// <summary>Bytes at the peak of reading eight of the longest prompts; 0 where that could not be measured.</summary>
    public Dictionary<string, double> Peaks { get; } = [];

    /// <summary>Floating-point operations of reading a prompt, by its length.</summary>
    public Dictionary<string, double[]> Work { get; } = [];

    /// <summary>Times at the published sizes, by what weights are stored in.</summary>
    public List<(torch.ScalarType WeightType, KvpLargeTimes Times)> Large { get; } = [];

    /// <summary>The arm of a name; null where its training is missing.</summary>
    public KvpArm? Find(string name) => Arms.Keys.FirstOrDefault(arm => arm.Name == name);

    /// <summary>One figure of all variants of an arm.</summary>
    public double[] Values(KvpArm arm, Func<KvpFigures, double> figure) => [.. Arms[arm].Select(figure)];

    /// <summary>
    /// One figure of two arms, in pairs of equal seeds. What has no seed is paired with every seed of the other. Null where nothing pairs.
    /// </summary>
    public (double[] Arm, double[] Control)? Pairs(string arm, string control, Func<KvpFigures, double> figure)
    {
        if (Find(arm) is not { } first || Find(control) is not { } second) return null;
        (int? Seed, double Value)[] left = Seeded(first), right = Seeded(second);
        int?[] seeds = left[0].Seed is null ? [.. right.Select(entry => entry.Seed)] : [.. left.Select(entry => entry.Seed)];
        int?[] common = [.. seeds.Where(seed => Has(left, seed) && Has(right, seed))];
        return common.Length == 0 ? null : ([.. common.Select(seed => Of(left, seed))], [.. common.Select(seed => Of(right, seed))]);

        (int?, double)[] Seeded(KvpArm of) => [.. of.Variants.Zip(Arms[of], (variant, figures) => (variant.Seed, figure(figures)))];

        static bool Has((int? Seed, double)[] values, int? seed) => values[0].Seed is null || values.Any(entry => entry.Seed == seed);

        static double Of((int? Seed, double Value)[] values, int? seed) =>
            values[0].Seed is null ? values[0].Value : values.First(entry => entry.Seed == seed).Value;
    }

    /// <summary>
    /// (auxiliary − arm) / (auxiliary − base) in percent, one a variant: how much of what the auxiliary model lacks the arm has. Null where
    /// the base is no better than the auxiliary model, so that there is no gap.
    /// </summary>
    public double[]? Shares(KvpArm arm, Measure measure)
    {
        double auxiliary = Single(KvpArms.Auxiliary), whole = Single(KvpArms.Base);
        if (measure.LowerIsBetter ? auxiliary <= whole : auxiliary >= whole) return null;
        return [.. Values(arm, measure.Of).Select(value => 100 * (auxiliary - value) / (auxiliary - whole))];

        double Single(string name) => Values(Find(name)!, measure.Of)[0];
    }
}

/// <summary>One figure of an arm.</summary>
/// <param name="What">Without the prompt.</param>
/// <param name="Length">Which of the lengths.</param>
/// <param name="Prompt">Tokens of the prompt.</param>
/// <param name="LowerIsBetter">Whether it is an error.</param>
/// <param name="Of">Reads it.</param>
internal sealed record Measure(string What, int Length, int Prompt, bool LowerIsBetter, Func<KvpFigures, double> Of)
{
    public string Name => $"{What}, {PromptOf(Prompt)}";

    public string ShareName => $"share of the gap recovered, %: {Name}";

    public static string PromptOf(int prompt) => string.Create(CultureInfo.InvariantCulture, $"prompt of {prompt:N0}");
}
