using System.Globalization;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Models;
using TorchSharp;

namespace AuxCore.Bench.Tours;

/// <summary>
/// Proto-value functions of four rooms, learned from a random walk, beside the exact ones; then the kernel on that training's own batch.
/// </summary>
internal sealed class SuccessorMeasureTour : TourPath
{
    private const int Steps = 3000, QuickSteps = 300, Seed = 1; // ten seconds on one core
    private const double Tolerance = 1e-4;

    // The others take longer than the whole path: kernels successor-measure has them.
    private static readonly string[] Shown =
        ["td-256x100", "td-256x1000", "pvn-head-b256-f512-t100-a6", "tabular-4096x104", "fb-n1024-d100", "rni-256x100"];

    public override string Title => "Successor measures (successor-measure)";

    public override IReadOnlyList<Func<KernelCase>> Cases =>
        [.. CaseCatalogue.All.Where(create => Shown.Any(name => CaseCatalogue.FullName(create) == $"successor-measure/{name}"))];

    public override void Demonstrate(TourContext context)
    {
        int steps = context.Settings.Quick ? QuickSteps : Steps;
        string data = string.Create(CultureInfo.InvariantCulture,
            $"Four rooms, {FourRooms.States} cells, {ProtoValues.Transitions:N0} random moves; {ProtoValues.Features} features a cell, "
            + $"a task a cell, {steps:N0} steps of {ProtoValues.Batch}.");
        Console.WriteLine(data);
        var backend = Enum.Parse<AuxBackend>(context.Settings.Backend, ignoreCase: true);
        double[,] exact = ProtoValues.ExactModes();
        var (learned, before, disagreement) = Progress.Run("training", progress =>
        {
            torch.set_num_threads(context.Settings.Threads);
            AuxRuntime.CpuThreads = context.Settings.Threads;
            using ProtoValues values = new(TaskSets.States, Seed, backend);
            double start = Subspaces.LargestAngle(exact, values.LearnedModes());
            values.Train(steps, progress.Report, context.Cancellation);
            return (values.LearnedModes(), start, values.Disagreement(backend, AuxBackend.Reference));
        });

        string outcome = string.Create(CultureInfo.InvariantCulture,
            $"Largest angle between the four learned modes and the exact ones: {Subspaces.LargestAngle(exact, learned):0.0} degrees "
            + $"({before:0.0} before).");
        const string question = "With random sets as tasks, and other seeds: models four-rooms. Reaching goals: models fb.";
        string verified = string.Create(CultureInfo.InvariantCulture,
            $"The kernel on a batch of this training: loss and gradients {disagreement:0.0e+0} from the reference "
            + $"({Tolerance:0e+0} allowed).");
        Console.WriteLine(outcome);
        Console.WriteLine(question);
        Console.WriteLine(verified);

        context.Report.AddSection("Proto-value functions of four rooms", HtmlReport.Escape(
            $"{data} The features and their heads learn, by temporal differences alone, how much discounted time the random walk will "
            + "spend in each cell. The exact functions are the smoothest eigenvectors of the rooms' transition matrix, one a room; the "
            + "learned ones are the strongest directions of the predictions, turned within the space that they span to where the exact "
            + "ones are nearest. One seed: an illustration."),
            HtmlReport.Escape(outcome), HtmlReport.Escape(verified));
        context.Report.AddChart("Four smoothest functions of the rooms: exact and learned", Picture(exact, learned));
        if (!(disagreement <= Tolerance)) // also catches NaN
            throw new VerificationException($"{disagreement:E1} from the reference on a batch of the training", disagreement);
    }

    private static string Picture(double[,] exact, double[,] learned)
    {
        double[,] turned = Subspaces.Turned(learned, towards: exact);
        return MapSvg.Render(
            "Four maps of the rooms coloured by the exact functions, above four coloured by the learned ones",
            [.. Enumerable.Range(1, ProtoValues.Modes).Select(mode => $"mode {mode}")],
            [("exact", Columns(exact)), ("learned", Columns(turned))], FourRooms.Size, FourRooms.Position);

        static IReadOnlyList<double[]> Columns(double[,] matrix) =>
            [.. Enumerable.Range(0, matrix.GetLength(1)).Select(column =>
                Enumerable.Range(0, matrix.GetLength(0)).Select(row => matrix[row, column]).ToArray())];
    }
}
