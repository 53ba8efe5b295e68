namespace AuxCore.Kernels;

/// <summary>Roundings to binary16 in one direction, to finite numbers. −0 becomes +0.</summary>
internal static class DirectedHalf
{
    /// <summary>The greatest binary16 that is at most x; −65504 where none is.</summary>
    public static Half AtMost(float x)
    {
        var nearest = (Half)Math.Clamp(x, (float)Half.MinValue, (float)Half.MaxValue);
        return ((float)nearest > x && nearest > Half.MinValue ? Half.BitDecrement(nearest) : nearest) + Half.Zero;
    }

    /// <summary>The least binary16 that is at least x; 65504 where none is.</summary>
    public static Half AtLeast(float x) => -AtMost(-x) + Half.Zero;
}
