using System.Globalization;
using AuxCore.Bench.Cases;
using AuxCore.Bench.Data;
using AuxCore.Bench.Output;
using AuxCore.Bench.Workloads;
using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Models;
using ScottPlot;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Bench.Tours;

/// <summary>
/// Weight averaging on real images: a training with an <see cref="EmaModel"/>, then the kernel on that model's own parameters.
/// </summary>
internal sealed class EmaTour : TourPath
{
    private const long Steps = 600, QuickSteps = 60; // half a minute on one core
    private const int Seed = 1, Points = 20, TestImages = 1000;

    public override string Title => "Exponential moving average of parameters (ema)";

    public override IReadOnlyList<Func<KernelCase>> Cases =>
        [.. EmaUpdateBenchmarks.All, .. ScatterEmaBenchmarks.All, .. AdamWUpdateBenchmarks.Shown];

    public override void Demonstrate(TourContext context)
    {
        FashionMnist data = FashionMnist.LoadBest();
        LabelledImages test = data.Test.First(TestImages); // the whole of the full set, at every point, would take longer than the training
        long steps = context.Settings.Quick ? QuickSteps : Steps;
        Console.WriteLine($"{data.Source}; a small vision transformer, AdamW at a constant rate, {steps} steps, one seed.");
        using var training = new ImageTraining(data.Train, LearningRate.Constant, steps, Seed);
        var backend = Enum.Parse<AuxBackend>(context.Settings.Backend, ignoreCase: true);
        using var ema = new EmaModel(training.Model, AveragedTraining.Schedule) { Backend = backend };
        var (curve, stepMs, updateMs) = Progress.Run("training", progress =>
        {
            torch.set_num_threads(context.Settings.Threads); // OpenMP keeps it for each calling thread
            return AveragedTraining.Run(training, ema, test, steps, steps / Points, progress, context.Cancellation);
        });

        AccuracyPoint last = curve[^1];
        string outcome = string.Create(CultureInfo.InvariantCulture,
            $"Accuracy on {test.Count:N0} test images, one seed: weights {last.Raw:0.0} %, their average {last.Averaged:0.0} %.");
        string cost = string.Create(CultureInfo.InvariantCulture,
            $"A training step took {stepMs:0.0} ms, the update of the average {updateMs * 1e3:0} us of it "
            + $"({100 * updateMs / (stepMs + updateMs):0.0} %).");
        Console.WriteLine(outcome);
        Console.WriteLine(cost);
        Console.WriteLine("Whether averaging helps is a question for several seeds: run the verb models ema.");

        double worst = Verify(ema, training.Model, backend);
        string verified = string.Create(CultureInfo.InvariantCulture,
            $"The kernel on these {training.Model.parameters().Count()} parameters: "
            + $"{worst:0.00} ulp from the reference at most (1 allowed).");
        Console.WriteLine(verified);

        context.Report.AddSection("Averaged weights on real images",
            HtmlReport.Escape(
                $"{data.Source}. A small vision transformer, trained for {steps} steps by AdamW at a constant rate; "
                + $"its weights {AveragedTraining.ScheduleText}. One seed: an illustration, not a comparison."),
            HtmlReport.Escape(outcome), HtmlReport.Escape(cost), HtmlReport.Escape(verified));
        context.Report.AddChart("Test accuracy along the training, in percent", Chart(curve));
    }

    /// <summary>One more update of this very model, by the chosen backend and by the reference, compared element by element.</summary>
    private static double Verify(EmaModel ema, torch.nn.Module model, AuxBackend backend)
    {
        using var scope = torch.NewDisposeScope();
        using var noGrad = torch.no_grad();
        (string Name, Tensor Source)[] parameters = [.. model.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter))];
        Tensor[] actual = [.. parameters.Select(entry => ema.StateDict()[entry.Name].clone())];
        Tensor[] expected = [.. actual.Select(average => average.clone())];
        TensorView[] sources = [.. parameters.Select(entry => entry.Source.ToTensorView(entry.Name))];
        using var ours = EmaGroup.FromViews(sources, [.. actual.Select(average => average.ToTensorView())]);
        using var reference = EmaGroup.FromViews(sources, [.. expected.Select(average => average.ToTensorView())]);
        ours.Update(0.99, backend);
        reference.Update(0.99, AuxBackend.Reference);

        double worst = parameters.Select((entry, i) => EmaError.MaxUlps(actual[i], expected[i], entry.Source)).Max();
        return worst <= 1
            ? worst
            : throw new VerificationException($"{worst:0.###} ulps from the reference on the model's parameters", worst);
    }

    private static string Chart(List<AccuracyPoint> curve)
    {
        var plot = new Plot();
        double[] steps = [.. curve.Select(point => (double)point.Step)];
        Line([.. curve.Select(point => point.Raw)], "#d0743c");
        Line([.. curve.Select(point => point.Averaged)], "#3b7dd8");
        double low = curve.Skip(curve.Count / 5).Min(point => Math.Min(point.Raw, point.Averaged)) - 1;
        double high = curve.Max(point => Math.Max(point.Raw, point.Averaged)) + 1;
        plot.Axes.SetLimits(0, steps[^1], low, high);
        plot.XLabel("optimiser steps");
        AccuracyPoint last = curve[^1];
        double gap = (high - low) / 16; // two labels at the right edge must not cover each other
        double middle = (last.Raw + last.Averaged) / 2, half = Math.Max(gap / 2, Math.Abs(last.Averaged - last.Raw) / 2);
        double sign = last.Averaged >= last.Raw ? 1 : -1;
        return PlotSvg.Render(plot, "Test accuracy of the weights and of their average", 860, 320, PlotSvg.Margins(48, 130),
            [(new(steps[^1], middle - sign * half), "weights"), (new(steps[^1], middle + sign * half), "their average")]);

        void Line(double[] values, string colour)
        {
            plot.Add.ScatterLine(steps, values, Color.FromHex(colour)).LineWidth = 2;
        }
    }
}
