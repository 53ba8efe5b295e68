namespace AuxCore.Kernels;

/// <summary>
/// Where things lie in the device memory between the products of <see cref="PvnHead"/>: the same arithmetic as in
/// <c>native/cuda/successor_measure/pvn_head.cpp</c>, which checks it.
/// </summary>
/// <param name="Error">float32 [B, T], in grouped order.</param>
/// <param name="Losses">float64 [B, ⌈T / 32⌉].</param>
/// <param name="Order">int32 [B].</param>
/// <param name="Offsets">int32 [A + 1].</param>
/// <param name="Bytes">All of it.</param>
internal readonly record struct PvnWorkspace(long Error, long Losses, long Order, long Offsets, long Bytes)
{
    private const long Alignment = 256;
    private const int TileTasks = 32;

    public static PvnWorkspace Of(int rows, PvnShape shape)
    {
        var tiles = (shape.Tasks + (long)TileTasks - 1) / TileTasks;
        var losses = Aligned(checked((long)rows * shape.Tasks * sizeof(float)));
        var order = losses + Aligned(checked(rows * tiles * sizeof(double)));
        var offsets = order + Aligned(rows * (long)sizeof(int));
        return new(0, losses, order, offsets, offsets + Aligned((shape.Actions + 1L) * sizeof(int)));
    }

    private static long Aligned(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;
}
