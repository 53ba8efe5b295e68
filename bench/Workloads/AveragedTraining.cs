using AuxCore.Bench.Data;
using AuxCore.Models;

namespace AuxCore.Bench.Workloads;

/// <summary>Test accuracy along a training, of the weights as they are and of their average; in percent.</summary>
/// <param name="Step">Optimiser steps done.</param>
/// <param name="Raw">Of the weights.</param>
/// <param name="Averaged">Of their average; NaN without one.</param>
internal readonly record struct AccuracyPoint(long Step, double Raw, double Averaged);

/// <summary>What the tour and the experiment share: an <see cref="ImageTraining"/> with an <see cref="EmaModel"/> beside it.</summary>
internal static class AveragedTraining
{
    /// <summary>
    /// The weight of a step is 10 / (10 + t): the average reaches over about the last tenth of the training, however long that is.
    /// </summary>
    public static EmaSchedule Schedule { get; } = EmaSchedule.WarmUp(gamma: 10, power: 1);

    /// <summary>The same in words.</summary>
    public static string ScheduleText => "averaged over about the last tenth of the steps";

    /// <summary>Trains to the last step and evaluates at every <paramref name="every"/>-th and at the last.</summary>
    /// <returns>The curve, and the wall time of one optimiser step and of one update of the average, in milliseconds.</returns>
    public static (List<AccuracyPoint> Curve, double StepMs, double UpdateMs) Run(
        ImageTraining training, EmaModel? ema, LabelledImages test, long steps, long every,
        IProgress<double> progress, CancellationToken cancellation)
    {
        var curve = new List<AccuracyPoint>();
        var (inSteps, inUpdates) = (new System.Diagnostics.Stopwatch(), new System.Diagnostics.Stopwatch());
        for (long step = 1; step <= steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            inSteps.Start();
            training.Step();
            inSteps.Stop();
            inUpdates.Start();
            ema?.Update();
            inUpdates.Stop();
            if (step % every == 0 || step == steps) curve.Add(Evaluate(step));
            progress.Report((double)step / steps);
        }

        return (curve, inSteps.Elapsed.TotalMilliseconds / steps, inUpdates.Elapsed.TotalMilliseconds / steps);

        AccuracyPoint Evaluate(long step)
        {
            double raw = ImageTraining.Accuracy(training.Model, test);
            if (ema is null) return new(step, raw, double.NaN);
            using (ema.Swap()) return new(step, raw, ImageTraining.Accuracy(training.Model, test));
        }
    }
}
