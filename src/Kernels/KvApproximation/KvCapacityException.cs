namespace AuxCore.Kernels;

/// <summary>A cache has no room at a position that something was to be stored at. Nothing was written.</summary>
public sealed class KvCapacityException : ArgumentException
{
    /// <summary>A message that names the sequence, the position and the capacity.</summary>
    /// <param name="message">What was asked for, and how much room there is.</param>
    /// <param name="parameter">The argument that named the position.</param>
    public KvCapacityException(string message, string parameter)
        : base(message, parameter)
    {
    }
}
