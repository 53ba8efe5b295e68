namespace AuxCore.Kernels;

/// <summary>
/// The device memory that <see cref="TokenDiversity"/> keeps between its launches: scales, nearest similarities, what is chosen, and all
/// similarities. The same arithmetic as in <c>native/cuda/token_pruning/token_diversity.cpp</c>, which refuses less.
/// </summary>
internal static class DiversityWorkspace
{
    public static long Of(long tokens, long longest) =>
        Aligned(tokens * sizeof(double)) + Aligned(tokens * sizeof(float)) + Aligned(tokens * sizeof(int))
        + Aligned(checked(tokens * Math.Min(tokens, longest) * sizeof(float)));

    private static long Aligned(long bytes) => checked(bytes + 255) / 256 * 256;
}
