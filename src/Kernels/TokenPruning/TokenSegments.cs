namespace AuxCore.Kernels;

/// <summary>Segments of tokens by where each begins: B + 1 numbers, ascending from 0 to the number of tokens (cu_seqlens).</summary>
internal static unsafe class TokenSegments
{
    /// <summary>Refuses segments that have not even an end: what can be said of any memory.</summary>
    public static void RequireEnd(long boundCount, string name)
    {
        if (boundCount == 0)
            throw new ArgumentException($"{name}: int32[0], but it holds at least one number, the end", name);
    }

    /// <summary>Refuses numbers that do not divide so many tokens. Host memory only.</summary>
    public static void Check(int* bounds, long boundCount, long tokens, string name)
    {
        RequireEnd(boundCount, name);
        if (bounds[0] != 0)
            throw new ArgumentException($"{name}[0] is {bounds[0]}; the first segment begins at 0", name);
        for (var b = 1L; b < boundCount; b++)
        {
            if (bounds[b] < bounds[b - 1])
                throw new ArgumentException($"{name}[{b}] is {bounds[b]}, below {bounds[b - 1]} before it; they ascend", name);
        }

        if (bounds[boundCount - 1] != tokens)
            throw new ArgumentException($"{name}: they end at {bounds[boundCount - 1]}, but there are {tokens} tokens", name);
    }
}
