namespace AuxCore.Kernels;

public static partial class ScatterEma
{
    // Entries are read and written where the index says, so there is nothing for vectors to do but the check of the index, which went before.
    private static unsafe void RunCpu(ScatterWork work, EmaStep step, NaNPolicy nan)
    {
        var missing = nan == NaNPolicy.Missing;
        if (step.Rule == EmaRule.Keep && !missing)
            return;
        if (work.IsIndex64)
        {
            for (var j = 0L; j < work.Count; j++)
                Step(work.History + work.Index64[j], work.Value[j], step, missing);
        }
        else
        {
            for (var j = 0L; j < work.Count; j++)
                Step(work.History + work.Index32[j], work.Value[j], step, missing);
        }
    }

    private static unsafe void Step(float* entry, float value, EmaStep step, bool missing)
    {
        if (missing && float.IsNaN(value))
            return;
        *entry = missing && float.IsNaN(*entry) ? value : step.Apply(*entry, value);
    }
}
