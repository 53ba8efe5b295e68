using System.Runtime.InteropServices;

namespace AuxCore.Kernels;

public static partial class TokenCompact
{
    /// <summary>Row by row, from a copy of the source's memory, so that it does not matter what is overwritten.</summary>
    private static unsafe void RunReference(TokenCompactWork work)
    {
        foreach (var item in work.Items)
        {
            var copy = (byte*)NativeMemory.Alloc((nuint)Math.Max(1, item.SourceBytes));
            NativeMemory.Copy(item.Source, copy, (nuint)item.SourceBytes);
            for (var strip = 0L; strip < item.Strips; strip++)
            {
                item.Strip(strip, out var source, out var destination, out var segment);
                var (first, _) = work.Tokens(item, segment);
                var (from, to) = work.Kept(item, segment);
                for (var place = 0L; place < item.DestinationTokens; place++)
                {
                    var row = new Span<byte>(destination + place * item.DestinationStep, checked((int)item.RowBytes));
                    if (from + place < to)
                    {
                        var token = work.Indices[from + place] - first;
                        new Span<byte>(copy + (source - item.Source) + token * item.SourceStep, row.Length).CopyTo(row);
                    }
                    else if (item.ClearRest)
                        row.Clear();
                }
            }

            NativeMemory.Free(copy);
        }
    }

    private static unsafe void RunBackwardReference(TokenCompactWork work)
    {
        foreach (var item in work.Items)
        {
            for (var strip = 0L; strip < item.Strips; strip++)
            {
                item.Strip(strip, out var source, out var destination, out var segment);
                var (first, end) = work.Tokens(item, segment);
                var (from, _) = work.Kept(item, segment);
                for (var token = 0L; token < item.DestinationTokens; token++)
                {
                    var row = new Span<byte>(destination + token * item.DestinationStep, checked((int)item.RowBytes));
                    var slot = first + token < end ? work.Slots[first + token] : -1;
                    if (slot < 0)
                        row.Clear();
                    else
                        new Span<byte>(source + (slot - from) * item.SourceStep, row.Length).CopyTo(row);
                }
            }
        }
    }
}
