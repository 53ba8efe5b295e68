namespace AuxCore.Interop;

/// <summary>
/// The CUDA driver, or AuxCore's native library, failed. Work is asynchronous, so an error may stem from an earlier call: with the
/// environment variable <c>AUXCORE_SYNC=1</c> each call waits for its own work and reports its own faults. After a fault of a kernel the
/// process's CUDA context is unusable, for every library that shares it.
/// </summary>
public sealed class CudaException : AuxException
{
    /// <summary>Creates the exception.</summary>
    /// <param name="operation">What was being done, by its public name.</param>
    /// <param name="status">Positive: the driver's CUresult. Negative: the native library's own code.</param>
    /// <param name="message">What the native library says: its function, the driver's function, the error's name and text.</param>
    public CudaException(string operation, int status, string message)
        : base(operation, $"{operation}: {message}") => Status = status;

    /// <summary>Positive: the driver's CUresult, such as 2 for out of memory. Negative: the native library's own code.</summary>
    public int Status { get; }
}
