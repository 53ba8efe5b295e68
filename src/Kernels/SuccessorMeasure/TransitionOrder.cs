namespace AuxCore.Kernels;

/// <summary>What the later transitions of a batch see of the earlier ones.</summary>
public enum TransitionOrder
{
    /// <summary>Everything: a batch gives what its transitions give one by one.</summary>
    Sequential,

    /// <summary>
    /// Rows of next states are read as they were before the batch. A state that occurs more than once is still updated by its transitions
    /// one after the other, in their order.
    /// </summary>
    Snapshot,
}
