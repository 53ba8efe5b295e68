namespace AuxCore.Kernels;

/// <summary>What the ops of this folder check and know of discounts and starts.</summary>
internal static class SuccessorArguments
{
    public static void CheckDiscount(double discount)
    {
        if (!(discount >= 0 && discount < 1)) // also catches NaN
            throw new ArgumentOutOfRangeException(nameof(discount), discount, "A discount lies within [0, 1).");
    }

    public static void CheckStart(Start start)
    {
        if (start is not (Start.Current or Start.Next))
            throw new ArgumentOutOfRangeException(nameof(start), start, "Not a Start.");
    }

    /// <summary>What a state counts each time that it is met: 1, or 1 − γ, formed in double.</summary>
    public static double Height(double discount, bool normalised) => normalised ? 1 - discount : 1;
}
