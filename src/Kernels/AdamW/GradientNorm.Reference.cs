namespace AuxCore.Kernels;

public static partial class GradientNorm
{
    /// <summary>
    /// Element by element, in double, with the error of each addition kept and added at the end (Neumaier 1974).
    /// </summary>
    private static unsafe GradientSummary RunReference(in AdamWWork work)
    {
        var (sum, error, nonFinite) = (0.0, 0.0, 0L);
        for (var tensor = 0; tensor < work.TensorCount; tensor++)
        {
            ref readonly var row = ref work.Row(tensor);
            if (row.Gradient == 0)
                continue;
            for (var i = 0L; i < work.Count(tensor); i++)
            {
                double element = ReferenceFormat.Widen((void*)row.Gradient, row.GradientType, i);
                if (!double.IsFinite(element))
                    nonFinite++;
                var square = element * element;
                var next = sum + square;
                error += sum >= square ? sum - next + square : square - next + sum;
                sum = next;
            }
        }

        return new(double.IsFinite(sum) ? sum + error : sum, nonFinite);
    }
}
