using System.Runtime.InteropServices;

namespace AuxCore.Interop;

/// <summary>The C ABI's status codes as exceptions.</summary>
internal static unsafe class NativeStatus
{
    public const int Ok = 0;
    public const int Argument = -1;
    public const int Handle = -2;
    public const int Abi = -3;
    public const int NoDriver = -4;
    public const int NoDevice = -5;
    public const int NoImage = -6;
    public const int HostMemory = -7;
    public const int Internal = -8;

    /// <summary>
    /// Throws unless a call succeeded. Called on the thread that made the call, before any other: the message is the thread's.
    /// </summary>
    /// <param name="status">What the call returned.</param>
    /// <param name="operation">The public name of what was being done.</param>
    public static void Check(int status, string operation)
    {
        if (status != Ok)
            throw ToException(status, operation, LastMessage());
    }

    public static string LastMessage() => Marshal.PtrToStringUTF8((nint)Native.LastError()) ?? "";

    internal static Exception ToException(int status, string operation, string message) => status switch
    {
        Argument => new ArgumentException($"{operation}: {message}"),
        Handle => new ObjectDisposedException(operation, message),
        NoDriver or NoDevice or NoImage => new BackendUnavailableException(operation, AuxBackend.Cuda, message),
        HostMemory => new InsufficientMemoryException($"{operation}: {message}"),
        _ => new CudaException(operation, status, message),
    };
}
