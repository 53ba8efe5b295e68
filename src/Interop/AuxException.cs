namespace AuxCore.Interop;

/// <summary>An AuxCore operation failed for a reason other than a bad argument (those are <see cref="ArgumentException"/>s).</summary>
public class AuxException : Exception
{
    /// <summary>Creates the exception.</summary>
    /// <param name="operation">What was being done, by its public name, such as <c>EmaUpdate</c>.</param>
    /// <param name="message">What went wrong and what to do next.</param>
    /// <param name="innerException">The cause, where another exception was it.</param>
    public AuxException(string operation, string message, Exception? innerException = null)
        : base(message, innerException) => Operation = operation;

    /// <summary>What was being done, by its public name, such as <c>EmaUpdate</c>.</summary>
    public string Operation { get; }
}

/// <summary>
/// The caller named a backend that cannot run this operation here. AuxCore never falls back from a named backend silently.
/// </summary>
public sealed class BackendUnavailableException : AuxException
{
    /// <summary>Creates the exception.</summary>
    /// <param name="operation">The operation that was asked for.</param>
    /// <param name="backend">The backend that was asked for.</param>
    /// <param name="reason">Why that backend cannot run it.</param>
    public BackendUnavailableException(string operation, AuxBackend backend, string reason)
        : base(operation, $"{operation} cannot run on the {backend} backend: {reason}")
    {
        Backend = backend;
        Reason = reason;
    }

    /// <summary>The backend that was asked for.</summary>
    public AuxBackend Backend { get; }

    /// <summary>Why it cannot run the operation.</summary>
    public string Reason { get; }
}
