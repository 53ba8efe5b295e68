namespace AuxCore.Kernels;

/// <summary>The bytes of one tensor of a call, under the name that a message gives it.</summary>
internal readonly record struct MemoryRange(nint Begin, nint Bytes, string Name, bool IsWritten)
{
    private nint End => Begin + Bytes;

    /// <summary>
    /// What is written shares its memory with nothing; what is only read may share it with its like. One sweep over the sorted ranges.
    /// </summary>
    /// <exception cref="ArgumentException">Two ranges overlap; the message names both.</exception>
    public static void RequireDisjoint(IReadOnlyCollection<MemoryRange> ranges)
    {
        MemoryRange? furthest = null, written = null; // of what began before: the one that reaches furthest, and the written one that does
        foreach (var range in ranges.Where(range => range.Bytes > 0).OrderBy(range => range.Begin))
        {
            var other = range.IsWritten ? furthest : written;
            if (other is { } met && met.End > range.Begin)
                throw new ArgumentException($"{range.Name} overlaps {met.Name} in memory; what is updated needs memory of its own");
            if (furthest is not { } f || range.End > f.End)
                furthest = range;
            if (range.IsWritten)
                written = range; // disjoint from those before, so it reaches further
        }
    }
}
