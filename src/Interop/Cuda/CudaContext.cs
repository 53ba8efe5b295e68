using System.Collections.Concurrent;

namespace AuxCore.Interop;

/// <summary>
/// A device's primary context, which libtorch and the CUDA runtime use too. There is one an ordinal; it is opened when first needed and
/// stays open until the process ends, as the driver's own does.
/// </summary>
internal sealed class CudaContext
{
    /// <summary>Where it is 1, each launch is waited for, and a fault is reported by the call that caused it.</summary>
    public const string SynchronousVariable = "AUXCORE_SYNC";

    private static readonly ConcurrentDictionary<int, CudaContext> Opened = new();
    private static readonly Lock Opening = new();

    private CudaContext(int ordinal, CudaContextHandle handle)
    {
        Ordinal = ordinal;
        Handle = handle;
    }

    public int Ordinal { get; }

    public CudaContextHandle Handle { get; }

    /// <summary>The context of a device.</summary>
    /// <param name="ordinal">Which device, from 0.</param>
    /// <param name="operation">What it is for; messages name it.</param>
    /// <exception cref="BackendUnavailableException">The library, the driver or the device is not there.</exception>
    public static CudaContext Of(int ordinal, string operation) =>
        Opened.TryGetValue(ordinal, out var context) ? context : OpenFirst(ordinal, operation);

    private static CudaContext OpenFirst(int ordinal, string operation)
    {
        if (!CudaLibrary.HasDevice(out var reason))
            throw new BackendUnavailableException(operation, AuxBackend.Cuda, reason);
        lock (Opening)
        {
            if (Opened.TryGetValue(ordinal, out var context))
                return context;
            // Read here, because what managed code puts into its environment does not reach native code.
            var flags = Environment.GetEnvironmentVariable(SynchronousVariable) == "1"
                ? Native.OpenFlags.Synchronous
                : Native.OpenFlags.None;
            NativeStatus.Check(Native.Open(Native.AbiVersion, ordinal, flags, out var handle), operation);
            return Opened[ordinal] = new CudaContext(ordinal, handle);
        }
    }
}
