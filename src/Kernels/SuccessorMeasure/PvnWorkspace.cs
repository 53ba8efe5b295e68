namespace AuxCore.Kernels;

/// <summary>
/// The device memory between the products of <see cref="PvnHead"/>: errors [B, T], losses [B, ⌈T / 32⌉], the order of rows [B], where
/// actions begin [A + 2]. The same arithmetic as in <c>native/cuda/successor_measure/pvn_head.cpp</c>, which refuses less.
/// </summary>
internal static class PvnWorkspace
{
    private const long Alignment = 256;
    private const int TileTasks = 32;

    public static long Bytes(int rows, PvnShape shape) => checked(
        Aligned((long)rows * shape.Tasks * sizeof(float))
        + Aligned(rows * ((shape.Tasks + (long)TileTasks - 1) / TileTasks) * sizeof(double))
        + Aligned(rows * (long)sizeof(int))
        + Aligned((shape.Actions + 2L) * sizeof(int)));

    private static long Aligned(long bytes) => checked(bytes + Alignment - 1) / Alignment * Alignment;
}
