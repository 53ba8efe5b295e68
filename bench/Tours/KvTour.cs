using System.Diagnostics;
using System.Globalization;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Measurement;
using AuxCore.Bench.Output;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using ScottPlot;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Tours;

/// <summary>What each format of a KV cache costs in memory, in error of the attention and in time.</summary>
internal sealed class KvTour : TourPath
{
    private const int QueryHeads = 32, KvHeads = 8, HeadDim = 64, Positions = 8192, QuickPositions = 2048, Calls = 15, Seed = 1;
    private const int LoudEvery = 16; // one channel in so many of the keys is louder than the others, as keys of transformers have them
    private const double Loudness = 8, Tolerance = 1e-5;

    private static readonly (KvFormat Keys, KvFormat Values)[] Formats =
    [
        (KvFormat.F32, KvFormat.F32), (KvFormat.F16, KvFormat.F16), (KvFormat.BF16, KvFormat.BF16), (KvFormat.Q8_0, KvFormat.Q8_0),
        (KvFormat.Q8_0, KvFormat.Q4_0), (KvFormat.Q4_0, KvFormat.Q4_0),
    ];

    public override string Title => "Attention over a stored KV cache (kv-approximation)";

    public override IReadOnlyList<Func<KernelCase>> Cases => KvDecodeAttentionBenchmarks.All;

    public override void Demonstrate(TourContext context)
    {
        int positions = context.Settings.Quick ? QuickPositions : Positions;
        var backend = Enum.Parse<AuxBackend>(context.Settings.Backend, ignoreCase: true);
        AuxRuntime.CpuThreads = context.Settings.Threads;
        string what = string.Create(CultureInfo.InvariantCulture,
            $"One token of {QueryHeads} query heads, {KvHeads} heads of keys and values of {HeadDim}, {positions:N0} positions.");
        string data = string.Create(CultureInfo.InvariantCulture,
            $"Random numbers; one channel of the keys in {LoudEvery} is {Loudness} times louder: an illustration.");
        const string Unit = "Error: the largest of the output, over its greatest element.";
        Console.WriteLine(what);
        Console.WriteLine(data);
        Console.WriteLine(Unit);

        List<KvOutcome> outcomes = Progress.Run("attending", progress => Measure(positions, backend, progress, context.Cancellation));
        foreach (KvOutcome outcome in outcomes)
        {
            Console.WriteLine($"  {outcome.Formats,-11} {outcome.Bytes,4} bytes a position, error {Format.Error(outcome.Error),7}, "
                + Format.Time(outcome.Microseconds));
        }

        if (outcomes[0].Error > Tolerance)
            throw new VerificationException($"float32: {outcomes[0].Error} from the reference, {Tolerance} allowed", outcomes[0].Error);

        context.Report.AddSection("Memory, error and time", HtmlReport.Escape(what), HtmlReport.Escape(data), HtmlReport.Escape(Unit));
        context.Report.AddChart("Error of the attention by bytes that a position of a layer takes", Chart(outcomes));
        context.Report.AddTable(
            ["keys, values", "bytes a position", "error", "time"],
            outcomes.Select(outcome => (IReadOnlyList<string>)
            [
                outcome.Formats, outcome.Bytes.ToString(CultureInfo.InvariantCulture), Format.Error(outcome.Error),
                Format.Time(outcome.Microseconds),
            ]));
        Generate(context);
        KvPredictionTour.Show(context);
    }

    private static void Generate(TourContext context)
    {
        Console.WriteLine(KvGeneration.What);
        IReadOnlyList<KvGenerationOutcome> outcomes =
            Progress.Run("generating", _ => KvGeneration.Run(context.Cancellation));
        foreach (KvGenerationOutcome outcome in outcomes) Console.WriteLine(KvGeneration.Line(outcome));
        context.Report.AddSection("A generation from compressed caches", HtmlReport.Escape(KvGeneration.What));
        context.Report.AddTable(
            ["cache", "bytes after the prompt", "error of the logits", "time of a token"],
            outcomes.Select(outcome => (IReadOnlyList<string>)
            [
                outcome.Cache, outcome.Bytes.ToString("N0", CultureInfo.InvariantCulture), Format.Error(outcome.Error),
                Format.Time(outcome.Microseconds),
            ]));
    }

    private static List<KvOutcome> Measure(
        int positions, AuxBackend backend, IProgress<double> progress, CancellationToken cancellation)
    {
        using var scope = torch.NewDisposeScope();
        torch.manual_seed(Seed);
        int[] lengths = [positions];
        Tensor query = torch.randn(1, QueryHeads, HeadDim), output = torch.zeros(1, QueryHeads, HeadDim);
        Tensor keys = torch.randn(1, KvHeads, positions, HeadDim), values = torch.randn(1, KvHeads, positions, HeadDim);
        Tensor loudness = torch.ones(HeadDim);
        for (int channel = 0; channel < HeadDim; channel += LoudEvery) loudness[channel] = Loudness;
        keys.mul_(loudness);

        Tensor exact = torch.zeros(1, QueryHeads, HeadDim);
        KvDecodeAttention.Run(
            query.ToTensorView(), keys.ToTensorView(), KvFormat.F32, values.ToTensorView(), KvFormat.F32, lengths, exact.ToTensorView(),
            backend: AuxBackend.Reference);

        var outcomes = new List<KvOutcome>();
        foreach ((KvFormat keyFormat, KvFormat valueFormat) in Formats)
        {
            TensorView storedKeys = Stored(keys, keyFormat), storedValues = Stored(values, valueFormat);
            var times = new double[Calls];
            for (int call = 0; call < Calls; call++)
            {
                cancellation.ThrowIfCancellationRequested();
                long start = Stopwatch.GetTimestamp();
                KvDecodeAttention.Run(
                    query.ToTensorView(), storedKeys, keyFormat, storedValues, valueFormat, lengths, output.ToTensorView(),
                    backend: backend);
                times[call] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            }

            double error = (output - exact).abs().max().item<float>() / exact.abs().max().item<float>();
            long bytes = KvHeads * (keyFormat.ByteCount(HeadDim) + valueFormat.ByteCount(HeadDim));
            string name = keyFormat == valueFormat ? $"{keyFormat}" : $"{keyFormat}, {valueFormat}";
            outcomes.Add(new(name, bytes, error, Quartiles.Of(times).Median));
            progress.Report((double)outcomes.Count / Formats.Length);
        }

        return outcomes;
    }

    private static TensorView Stored(Tensor elements, KvFormat format)
    {
        long[] shape = [.. elements.shape[..^1], format.ByteCount(HeadDim)];
        TensorView bytes = torch.zeros(shape, torch.uint8).ToTensorView();
        KvQuantise.Run(elements.ToTensorView(), format, bytes);
        return bytes;
    }

    private static string Chart(List<KvOutcome> outcomes)
    {
        var plot = new Plot();
        double[] bytes = [.. outcomes.Select(outcome => (double)outcome.Bytes)];
        double[] errors = [.. outcomes.Select(outcome => Math.Log10(Math.Max(outcome.Error, 1e-9)))];
        var points = plot.Add.ScatterPoints(bytes, errors, Color.FromHex("#3b7dd8"));
        points.MarkerSize = 9;
        plot.Axes.SetLimits(0, bytes.Max() * 1.05, errors.Min() - 0.5, errors.Max() + 0.5);
        plot.XLabel("bytes a position, keys and values of a layer");
        plot.YLabel("log₁₀ of the error");
        return PlotSvg.Render(plot, "Error of the attention by bytes a position", 860, 320, PlotSvg.Margins(130, 130),
            outcomes.Select((outcome, i) =>
                (new Coordinates(bytes[i], errors[i]), $"{outcome.Formats}: {Format.Time(outcome.Microseconds)}")));
    }

    /// <summary>What a format costs, or one of keys and one of values.</summary>
    private sealed record KvOutcome(string Formats, long Bytes, double Error, double Microseconds);
}
