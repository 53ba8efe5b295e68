namespace AuxCore.Kernels;

public static partial class TokenDiversity
{
    /// <summary>The words of the class in double, pair by pair.</summary>
    private static void SelectReference(in SimilarityWork work, int first, int count, bool[] spoiled, bool[] chosen)
    {
        var nearest = new double[chosen.Length]; // the largest similarity to any other, and then to any that is kept
        for (var i = 0; i < nearest.Length; i++)
        {
            nearest[i] = double.NegativeInfinity;
            for (var j = 0; j < nearest.Length; j++)
            {
                if (j != i && !spoiled[i] && !spoiled[j])
                    nearest[i] = Math.Max(nearest[i], UnitVectors.Cosine(work, first + i, first + j));
            }
        }

        for (var step = 0; step < count; step++)
        {
            var best = -1;
            for (var i = 0; i < nearest.Length; i++)
            {
                if (chosen[i])
                    continue;
                if (best < 0 || (spoiled[best] && !spoiled[i]) || (spoiled[best] == spoiled[i] && nearest[i] < nearest[best]))
                    best = i;
            }

            chosen[best] = true;
            for (var i = 0; i < nearest.Length; i++)
            {
                if (step == 0)
                    nearest[i] = double.NegativeInfinity;
                if (!spoiled[i] && !spoiled[best])
                    nearest[i] = Math.Max(nearest[i], UnitVectors.Cosine(work, first + i, first + best));
            }
        }
    }
}
