namespace AuxCore.Kernels;

public static partial class ScatterEma
{
    /// <summary>The formula of the class, one value after the other, each step in double and rounded once.</summary>
    private static unsafe void RunReference(ScatterWork work, EmaStep step, NaNPolicy nan)
    {
        for (var j = 0L; j < work.Count; j++)
        {
            var entry = work.History + work.IndexAt(j);
            var value = work.Value[j];
            if (nan == NaNPolicy.Missing && float.IsNaN(value))
                continue;
            *entry = nan == NaNPolicy.Missing && float.IsNaN(*entry) ? value : EmaUpdate.Reference(*entry, value, step);
        }
    }
}
