namespace AuxCore.Kernels;

public static partial class AdamWUpdate
{
    /// <summary>
    /// The formula of the class's remarks, element by element, in double, from the settings themselves. Moments and parameter are rounded
    /// once each, where they are stored, and the parameter follows from the stored moments. Averages then take a step of
    /// <see cref="EmaUpdate"/>'s reference.
    /// </summary>
    private static unsafe void RunReference(
        in AdamWWork work, ReadOnlySpan<AdamWSettings> settings, double gradientScale, ReadOnlySpan<double> decays)
    {
        for (var tensor = 0; tensor < work.TensorCount; tensor++)
        {
            ref readonly var row = ref work.Row(tensor);
            if (row.Gradient == 0)
                continue;
            for (var i = 0L; i < work.Count(tensor); i++)
                ReferenceStep(row, i, settings[row.Settings], gradientScale);
            for (var k = 0; k < work.AverageCount && work.HasAverages(tensor); k++)
                EmaUpdate.RunReference(work.Average(tensor, k), (void*)row.Parameter, row.ParameterType, work.Count(tensor), decays[k]);
        }
    }

    private static unsafe void ReferenceStep(in AdamWRow row, long i, in AdamWSettings settings, double gradientScale)
    {
        var parameter = ReferenceFormat.Widen((void*)row.Parameter, row.ParameterType, i);
        if (row.Master != 0)
        {
            var master = ((float*)row.Master)[i];
            parameter = ReferenceFormat.Round(master, row.ParameterType) == parameter ? master : parameter;
        }

        // The scaled gradient is a float32, so that a scale which exceeds float32 gives the same infinity everywhere.
        var scale = settings.Maximize ? -gradientScale : gradientScale;
        double gradient = (float)(ReferenceFormat.Widen((void*)row.Gradient, row.GradientType, i) * scale);
        if (!settings.Decoupled)
            gradient += settings.WeightDecay * parameter;

        ref var first = ref ((float*)row.FirstMoment)[i];
        ref var second = ref ((float*)row.SecondMoment)[i];
        first = (float)(settings.Beta1 * first + (1 - settings.Beta1) * gradient);
        second = (float)(settings.Beta2 * second + (1 - settings.Beta2) * gradient * gradient);

        var corrected1 = first / (1 - Math.Pow(settings.Beta1, settings.Step));
        var corrected2 = second / (1 - Math.Pow(settings.Beta2, settings.Step));
        var kept = settings.Decoupled ? parameter * (1 - settings.LearningRate * settings.WeightDecay) : parameter;
        var value = (float)(kept - settings.LearningRate * corrected1 / (Math.Sqrt(corrected2) + settings.Epsilon));
        ((float*)row.Value)[i] = value;
        if (row.Master != 0)
            ReferenceFormat.Store((void*)row.Parameter, row.ParameterType, i, value);
    }
}
