namespace AuxCore.Kernels;

/// <summary>
/// The rows of a batch grouped by the action that was taken: a stable sort by counting. Rows of one action need one head's weights, so the
/// products of a batch with A heads become A products of a part of the batch each.
/// </summary>
/// <remarks>
/// With libtorch: gather the features by <see cref="Order"/>, multiply each group's rows with its head, and hand the result to
/// <see cref="PvnHead"/>'s <c>RunGrouped</c>. Immutable.
/// </remarks>
public sealed class ActionGroups
{
    private readonly int[] _order;
    private readonly int[] _offsets;

    private ActionGroups(int[] order, int[] offsets) => (_order, _offsets) = (order, offsets);

    /// <summary>Groups a batch.</summary>
    /// <param name="actions">[B]: the action of each row, within [0, actionCount).</param>
    /// <param name="actionCount">A.</param>
    /// <exception cref="ArgumentOutOfRangeException">An action is out of range, or A is below 1.</exception>
    public static ActionGroups Of(ReadOnlySpan<int> actions, int actionCount)
    {
        TensorArguments.RequireAtLeastOne(nameof(actionCount), actionCount);
        TensorArguments.RequireIndices(actions, actionCount, nameof(actions));
        var offsets = new int[actionCount + 1];
        foreach (var action in actions)
            offsets[action + 1]++;
        for (var a = 0; a < actionCount; a++)
            offsets[a + 1] += offsets[a];

        var order = new int[actions.Length];
        Span<int> at = actionCount <= 256 ? stackalloc int[actionCount] : new int[actionCount];
        offsets.AsSpan(0, actionCount).CopyTo(at);
        for (var row = 0; row < actions.Length; row++)
            order[at[actions[row]]++] = row;
        return new(order, offsets);
    }

    /// <summary>B.</summary>
    public int RowCount => _order.Length;

    /// <summary>A.</summary>
    public int ActionCount => _offsets.Length - 1;

    /// <summary>[B]: the batch's row that stands at each place of the grouped order. Rows of one action keep their order.</summary>
    public ReadOnlySpan<int> Order => _order;

    /// <summary>[A + 1]: action a has the places from Offsets[a] up to Offsets[a + 1].</summary>
    public ReadOnlySpan<int> Offsets => _offsets;
}
