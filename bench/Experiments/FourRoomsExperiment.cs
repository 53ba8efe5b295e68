using System.Globalization;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;

namespace AuxCore.Bench.Experiments;

/// <summary>
/// Do the predictions of successor measures, learned from samples by TD, span the slow modes of four rooms? The control is the same network
/// before its training.
/// </summary>
internal sealed class FourRoomsExperiment : ModelExperiment
{
    private const int Steps = 4000, QuickSteps = 50;
    private const string States = "all states as tasks", Random = "1,000 random sets as tasks";
    private const string UntrainedStates = "all states, untrained", UntrainedRandom = "1,000 random sets, untrained";

    private static readonly (string Arm, TaskSets Tasks, bool Trained)[] Arms =
    [
        (Random, TaskSets.Random, true), (UntrainedRandom, TaskSets.Random, false), (States, TaskSets.States, true),
        (UntrainedStates, TaskSets.States, false),
    ];

    public override string Name => "four-rooms";

    public override string Claim =>
        "Learning the successor measures of random sets by TD turns the predictions towards the four slowest modes of the four rooms.";

    public override bool HigherIsBetter => false;

    public override ModelResults Run(ModelSettings settings, IProgress<double> progress, CancellationToken cancellation)
    {
        int steps = settings.Quick ? QuickSteps : Steps;
        var backend = Enum.Parse<AuxBackend>(settings.Backend, ignoreCase: true);
        var journal = new ExperimentJournal(Name, string.Create(CultureInfo.InvariantCulture,
            $"{steps} steps, seeds {string.Join(' ', settings.Seeds)}, {settings.Backend}"));
        double[,] exact = ProtoValues.ExactModes();
        var angles = Arms.ToDictionary(arm => arm.Arm, _ => new List<double>());
        double done = 0, all = settings.Seeds.Count * Arms.Length;
        foreach (int seed in settings.Seeds)
        {
            foreach ((string name, TaskSets tasks, bool trained) in Arms)
            {
                angles[name].Add(journal.Part($"{name}, seed {seed}", () =>
                {
                    using ProtoValues values = new(tasks, seed, backend);
                    values.Train(trained ? steps : 0, part => progress.Report((done + part) / all), cancellation);
                    return [Subspaces.LargestAngle(exact, values.LearnedModes())];
                })[0]);
                done++;
                progress.Report(done / all);
            }
        }

        journal.Complete();
        List<ModelRow> rows = [.. Arms.Select(arm => new ModelRow(
            arm.Arm, !arm.Trained, "largest angle to the exact four modes, degrees", angles[arm.Arm]))];
        ModelDifference states = ModelDifference.Between(rows[2], rows[3]);
        string claim = string.Create(CultureInfo.InvariantCulture,
            $"{Claim} ({ProtoValues.Transitions:N0} random moves, {ProtoValues.Features} features, discount {ProtoValues.Discount}, "
            + $"{steps:N0} steps of {ProtoValues.Batch}; with all states as tasks: {states.Mean:0.0} degrees [{states.Low:0.0}, "
            + $"{states.High:0.0}])");
        return new(Name, claim, rows, ModelDifference.Between(rows[0], rows[1]));
    }
}
