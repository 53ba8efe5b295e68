using System.Numerics;
using System.Runtime.CompilerServices;

namespace AuxCore.Kernels;

public static partial class ScatterEma
{
    // Entries are read and written where the index says, one after the other, because one may repeat. Only the check of the index, which
    // went before, is work for vectors. Asking for entries ahead of time brought nothing for a history of five megabytes.
    private static unsafe void RunCpu(ScatterWork work, EmaStep step, NaNPolicy nan)
    {
        if (work.IsIndex64)
            Run(work, work.Index64, step, nan);
        else
            Run(work, work.Index32, step, nan);
    }

    private static unsafe void Run<TIndex>(ScatterWork work, TIndex* index, EmaStep step, NaNPolicy nan)
        where TIndex : unmanaged, IBinaryInteger<TIndex>
    {
        switch (step.Rule)
        {
            case EmaRule.FromAverage:
                Loop<TIndex, EmaUpdate.FromAverage>(work, index, step.Coefficient, nan == NaNPolicy.Missing);
                break;
            case EmaRule.FromSource:
                Loop<TIndex, EmaUpdate.FromSource>(work, index, step.Coefficient, nan == NaNPolicy.Missing);
                break;
            case EmaRule.Copy:
                Loop<TIndex, EmaUpdate.Copy>(work, index, step.Coefficient, nan == NaNPolicy.Missing);
                break;
            case EmaRule.Keep when nan == NaNPolicy.Missing: // entries that are NaN are filled all the same
                Loop<TIndex, Keep>(work, index, step.Coefficient, missing: true);
                break;
        }
    }

    private static unsafe void Loop<TIndex, TRule>(ScatterWork work, TIndex* index, float coefficient, bool missing)
        where TIndex : unmanaged, IBinaryInteger<TIndex>
        where TRule : struct, EmaUpdate.IRule
    {
        var history = work.History;
        var value = work.Value;
        var count = work.Count;
        for (var j = 0L; j < count; j++)
        {
            var entry = history + long.CreateTruncating(index[j]);
            if (!missing)
                Step<TRule>(entry, value[j], coefficient);
            else if (!float.IsNaN(value[j]))
            {
                if (float.IsNaN(*entry))
                    *entry = value[j];
                else
                    Step<TRule>(entry, value[j], coefficient);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Step<TRule>(float* entry, float value, float coefficient) where TRule : struct, EmaUpdate.IRule =>
        TRule.Apply(FloatVector1.Broadcast(coefficient), FloatVector1.Load(entry), FloatVector1.Broadcast(value)).Store(entry);

    private readonly struct Keep : EmaUpdate.IRule
    {
        public static TVector Apply<TVector>(TVector unused, TVector e, TVector p) where TVector : struct, IFloatVector<TVector> => e;
    }
}
