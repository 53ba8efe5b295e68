namespace AuxCore.Kernels;

public static partial class TokenMerge
{
    /// <summary>Weighted means in double, rounded once.</summary>
    private static unsafe void RunReference(in MergeGroups groups)
    {
        var sizes = new double[groups.Kept];
        var sums = new double[groups.Kept * (long)groups.Width];
        for (var i = 0; i < groups.Tokens; i++)
        {
            if (groups.Slots[i] < 0)
                continue;
            sizes[groups.Slots[i]] += groups.SizeOf(i);
        }

        Array.Fill(sums, -0.0); // which adds nothing, not even a sign
        for (var i = 0; i < groups.Tokens; i++)
        {
            for (var k = 0; k < groups.Width && groups.Slots[i] >= 0; k++)
            {
                var value = (double)ReferenceFormat.Widen(groups.Source, groups.DType, (long)i * groups.Width + k);
                sums[groups.Slots[i] * (long)groups.Width + k] += groups.SizeOf(i) * value;
            }
        }

        for (var slot = 0; slot < groups.Kept; slot++)
        {
            for (var k = 0; k < groups.Width; k++)
            {
                var at = slot * (long)groups.Width + k;
                ReferenceFormat.Store(groups.Destination, groups.DType, at, sizes[slot] == 0 ? 0 : (float)(sums[at] / sizes[slot]));
            }

            if (groups.MergedSizes != null)
                groups.MergedSizes[slot] = (float)sizes[slot];
        }
    }

    private static unsafe void RunBackwardReference(in MergeGroups groups)
    {
        var sizes = new double[groups.Kept];
        for (var i = 0; i < groups.Tokens; i++)
        {
            if (groups.Slots[i] >= 0)
                sizes[groups.Slots[i]] += groups.SizeOf(i);
        }

        for (var i = 0; i < groups.Tokens; i++)
        {
            var slot = groups.Slots[i];
            for (var k = 0; k < groups.Width; k++)
            {
                var value = slot < 0 ? 0
                    : ReferenceFormat.Widen(groups.Source, groups.DType, (long)slot * groups.Width + k) * (groups.SizeOf(i) / sizes[slot]);
                ReferenceFormat.Store(groups.Destination, groups.DType, (long)i * groups.Width + k, (float)value);
            }
        }
    }
}
