namespace AuxCore.Kernels;

/// <summary>A list of tensors laid end to end, by the element at which each begins; the last entry is the end.</summary>
internal static class ElementOffsets
{
    public static int TensorAt(ReadOnlySpan<long> offsets, long element)
    {
        var at = offsets.BinarySearch(element);
        if (at < 0)
            return ~at - 1;
        while (offsets[at + 1] == element) // tensors without elements begin where the next one does
            at++;
        return at;
    }
}
