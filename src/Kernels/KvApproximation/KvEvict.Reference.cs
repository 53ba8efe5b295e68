namespace AuxCore.Kernels;

public static partial class KvEvict
{
    /// <summary>Head by head: the means, a sort, and the kept rows one after the other.</summary>
    private static unsafe void RunReference(in KvEvictWork work)
    {
        using var choice = new KvEvictChoice(work);
        for (var head = 0; head < work.Heads; head++)
            choice.Smooth(work, head);
        choice.Select(work, byReference: true);
        for (var head = 0; head < work.Heads; head++)
        {
            var (b, kvHead) = (head / work.Cache.KvHeads, head % work.Cache.KvHeads);
            var (from, kept) = choice.Kept(head);
            for (var j = 0; j < kept; j++)
            {
                var position = choice.Indices[from + j] - choice.Bounds[head];
                foreach (var plane in (ReadOnlySpan<KvPlane>)[work.Cache.Keys, work.Cache.Values])
                {
                    var row = new ReadOnlySpan<byte>(plane.Row(b, kvHead, position), (int)plane.RowBytes);
                    row.CopyTo(new(plane.Row(b, kvHead, j), (int)plane.RowBytes));
                }

                if (work.Numbers != null)
                    work.Numbers[head * work.NumberPositions + j] = work.Numbers[head * work.NumberPositions + position];
            }

            work.Lengths[head] = kept;
        }
    }
}
