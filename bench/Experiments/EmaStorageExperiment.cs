using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Does an average that is stored in bfloat16 follow weights that drift, if it is rounded to the nearest or stochastically? Nothing is
/// trained: the weights drift by themselves, and an average in double of the same weights is the truth.
/// </summary>
internal sealed class EmaStorageExperiment : ModelExperiment
{
    private const int Steps = 40_000, QuickSteps = 4_000;

    private static readonly double[] Decays = [0.99, 0.999, 0.9999];

    public override string Name => "ema-storage";

    public override string Claim =>
        "Averages in bfloat16 stand still if they are rounded to the nearest, and follow the weights if they are rounded stochastically.";

    public override bool HigherIsBetter => false;

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        int steps = settings.Quick ? QuickSteps : Steps;
        AverageStorage[] storages = Enum.GetValues<AverageStorage>();
        double done = 0, all = settings.Seeds.Count * Decays.Length * storages.Length;
        var rows = new List<ModelRow>();
        foreach (double decay in Decays)
        {
            foreach (AverageStorage storage in storages)
            {
                var results = new List<DriftResult>();
                foreach (int seed in settings.Seeds)
                {
                    cancellation.ThrowIfCancellationRequested();
                    results.Add(DriftingWeights.Run(storage, decay, steps, seed));
                    progress.Report(++done / all);
                }

                rows.Add(Row(storage, decay, "error, ppm", [.. results.Select(result => 1e6 * result.RelativeError)]));
                rows.Add(Row(storage, decay, "movement kept, %", [.. results.Select(result => 100 * result.MovementKept)]));
            }
        }

        ModelRow Of(AverageStorage storage) => rows.First(row => row.Arm == Arm(storage, 0.999));
        string what = string.Create(
            CultureInfo.InvariantCulture, $"{Claim} (4,096 drifting weights, {steps:N0} updates; errors relative to an average in double)");
        return new("ema-storage", what, rows,
            ModelDifference.Between(Of(AverageStorage.BFloat16Stochastic), Of(AverageStorage.BFloat16Nearest)));
    }

    private static ModelRow Row(AverageStorage storage, double decay, string metric, double[] values) =>
        new(Arm(storage, decay), storage is AverageStorage.Float32 or AverageStorage.BFloat16Nearest, metric, values);

    private static string Arm(AverageStorage storage, double decay) =>
        string.Create(CultureInfo.InvariantCulture, $"{StorageName(storage)}, {decay}");

    private static string StorageName(AverageStorage storage) => storage switch
    {
        AverageStorage.Float32 => "float32",
        AverageStorage.Float32OfBFloat16 => "float32 of bfloat16",
        AverageStorage.BFloat16Nearest => "bfloat16, nearest",
        _ => "bfloat16, stochastic",
    };
}
