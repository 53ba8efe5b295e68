using System.Globalization;
using System.Text;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using TorchSharp;

namespace AuxCore.Bench.Tours;

/// <summary>KV Prediction in short: committed models read pages of a book that none has learnt from.</summary>
internal static class KvPredictionTour
{
    private const int Prompt = 512, Excerpts = 16, Questions = 32, Rounds = 7, QuickRounds = 1, Shown = 60;

    private static readonly string[] Arms = [KvpArms.Base, KvpArms.Auxiliary, KvpArms.Split];

    /// <summary>Says why there is nothing to show, or shows it.</summary>
    public static void Show(TourContext context)
    {
        KvpCheckpoints checkpoints = KvpCheckpoints.Best;
        const int seed = 1;
        if (!Array.TrueForAll(["base", "auxiliary", $"split-{seed}"], checkpoints.Has))
        {
            Console.WriteLine("KV Prediction is left out: no trained models are here; models kvp --train makes them.");
            return;
        }

        AustenNovels novels = AustenNovels.LoadBest();
        var samples = new KvpSamples(novels.HeldOut, [Prompt], Excerpts, Questions);
        string what = string.Create(CultureInfo.InvariantCulture,
            $"KV Prediction: models that were trained beforehand read {Prompt} bytes of a book that none has learnt from.");
        string[] prompt = [$"{novels.Source}. It ends:", $"  …{End(samples)}"];
        const string more = "With seeds, controls and other lengths: models kvp.";
        Console.WriteLine(what);
        foreach (string line in prompt) Console.WriteLine(line);
        IReadOnlyList<Row> rows = Progress.Run("predicting", _ => Measure(checkpoints, samples, context, seed));
        foreach (Row row in rows)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"  {row.Arm,-16} first token {Format.Time(1e3 * row.Time.First),8}, then {Format.Time(1e3 * row.Time.Next),8} each; ")
                + string.Create(CultureInfo.InvariantCulture, $"{row.Loss:0.000} nats a byte, recall {row.Recall,3:0} %"));
        }

        Console.WriteLine(more);
        context.Report.AddSection("KV Prediction on real text", [HtmlReport.Escape(what), .. prompt.Select(HtmlReport.Escape), more]);
        context.Report.AddTable(
            ["model", "first token", "each behind it", $"nats a byte, {KvpSamples.NameOf(0)}", $"recall, % of {Questions}"],
            rows.Select(row => (IReadOnlyList<string>)
            [
                row.Arm, Format.Time(1e3 * row.Time.First), Format.Time(1e3 * row.Time.Next), Format.Number(row.Loss, "0.000"),
                Format.Number(row.Recall, "0"),
            ]));
    }

    private static List<Row> Measure(KvpCheckpoints checkpoints, KvpSamples samples, TourContext context, int seed)
    {
        torch.set_num_threads(context.Settings.Threads);
        using var arms = new KvpArms(checkpoints, new(), [seed]);
        List<KvpSystem> systems = [.. Arms.Select(name => arms.All.First(arm => arm.Name == name).Variants[0].Create())];
        try
        {
            KvpTime[] times = KvpTiming.Run(
                systems, samples, Prompt, batch: 1, context.Settings.Quick ? QuickRounds : Rounds, context.Settings.Threads,
                context.Cancellation);
            return
            [
                .. systems.Select((system, i) =>
                {
                    KvpFigures figures = KvpEvaluation.Run(system, samples, context.Cancellation);
                    return new Row(Arms[i], times[i], figures.Loss[0][0], 100 * figures.Recall(samples, 0));
                }),
            ];
        }
        finally
        {
            foreach (KvpSystem system in systems) system.Dispose();
        }
    }

    private static string End(KvpSamples samples)
    {
        using var scope = torch.NewDisposeScope();
        long[] end = samples.Prompts(0, 1, Prompt)[0].narrow(0, Prompt - Shown, Shown).data<long>().ToArray();
        return Encoding.ASCII.GetString([.. end.Select(value => (byte)value)]).Replace('\n', ' ');
    }

    private sealed record Row(string Arm, KvpTime Time, double Loss, double Recall);
}
