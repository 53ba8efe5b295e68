using System.Diagnostics.CodeAnalysis;

namespace AuxCore.Interop;

/// <summary>
/// A queue of work on a CUDA device, in the device's primary context. Ops take one as an argument; without, they use the legacy default
/// stream, where TorchSharp and the CUDA runtime's default work. Thread-safe.
/// </summary>
/// <remarks>
/// A stream made here does not wait for the default stream, nor that one for it: order them with <see cref="WaitFor"/>. Work is
/// asynchronous; memory that it uses stays alive until it is done, which <see cref="Synchronize"/> waits for.
/// </remarks>
[SuppressMessage("Naming", "CA1711:Identifiers should not have incorrect suffix", Justification = "CUDA's own term.")]
public sealed class CudaStream : IDisposable
{
    private readonly CudaContext _context;
    private readonly OwnedStream? _owned;
    private readonly nint _handle;

    private CudaStream(CudaContext context, nint handle, OwnedStream? owned) => (_context, _handle, _owned) = (context, handle, owned);

    /// <summary>Makes a stream.</summary>
    /// <param name="device">The device's ordinal.</param>
    /// <exception cref="BackendUnavailableException">The library, the driver or the device is not there.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    public static CudaStream Create(int device = 0)
    {
        var context = CudaContext.Of(device, nameof(CudaStream));
        NativeStatus.Check(Native.StreamCreate(context.Handle, out var handle), nameof(CudaStream));
        return new CudaStream(context, handle, new OwnedStream(context, handle));
    }

    /// <summary>A stream that somebody else made, such as PyTorch's current one; it stays theirs to destroy.</summary>
    /// <param name="handle">A CUstream or cudaStream_t of the device's primary context; 0 is the legacy default stream.</param>
    /// <param name="device">The device's ordinal.</param>
    /// <exception cref="BackendUnavailableException">The library, the driver or the device is not there.</exception>
    /// <exception cref="ArgumentException">The stream is of another context. What is no stream at all is the driver's to refuse, or to
    /// crash on.</exception>
    /// <exception cref="CudaException">The driver refuses the handle.</exception>
    public static CudaStream FromHandle(nint handle, int device = 0)
    {
        var context = CudaContext.Of(device, nameof(CudaStream));
        NativeStatus.Check(Native.StreamWait(context.Handle, handle, handle), nameof(CudaStream)); // checks it, and changes nothing
        return new CudaStream(context, handle, null);
    }

    /// <summary>The legacy default stream of a device.</summary>
    /// <param name="device">The device's ordinal.</param>
    /// <exception cref="BackendUnavailableException">The library, the driver or the device is not there.</exception>
    public static CudaStream Default(int device = 0) => new(CudaContext.Of(device, nameof(CudaStream)), 0, null);

    /// <summary>The CUstream, which is a cudaStream_t too.</summary>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public nint Handle
    {
        get
        {
            ObjectDisposedException.ThrowIf(_owned is { IsClosed: true }, this);
            return _handle;
        }
    }

    /// <summary>The device.</summary>
    public AuxDevice Device => new(AuxDeviceKind.Cuda, _context.Ordinal);

    /// <summary>Waits until all work given to the stream so far is done.</summary>
    /// <exception cref="CudaException">Work on the stream failed.</exception>
    /// <exception cref="ObjectDisposedException">The stream was disposed.</exception>
    public void Synchronize() => NativeStatus.Check(Native.StreamSynchronize(_context.Handle, Handle), nameof(CudaStream));

    /// <summary>
    /// Work given to this stream from now on runs after the work given to another up to now. The host does not wait.
    /// </summary>
    /// <param name="other">A stream of the same device.</param>
    /// <exception cref="ArgumentException">The other stream is on another device.</exception>
    /// <exception cref="ObjectDisposedException">One of the streams was disposed.</exception>
    public void WaitFor(CudaStream other)
    {
        ArgumentNullException.ThrowIfNull(other);
        if (other.Device != Device)
            throw new ArgumentException($"other: a stream of {other.Device} cannot be waited for on {Device}", nameof(other));
        NativeStatus.Check(Native.StreamWait(_context.Handle, Handle, other.Handle), nameof(CudaStream));
        GC.KeepAlive(other);
    }

    /// <summary>Destroys a stream made by <see cref="Create"/>; work that it still has runs to its end.</summary>
    public void Dispose() => _owned?.Dispose();

    /// <summary>The handle that a call is to use: the default stream's where the caller gave none.</summary>
    internal static nint HandleOn(CudaStream? stream, AuxDevice device, string parameter)
    {
        if (stream is null)
            return 0;
        if (stream.Device != device)
            throw new ArgumentException($"{parameter}: a stream of {stream.Device}, but the memory is on {device}", parameter);
        return stream.Handle;
    }

    private sealed class OwnedStream : NativeHandle
    {
        private readonly CudaContext _context;

        public OwnedStream(CudaContext context, nint stream)
        {
            _context = context;
            SetHandle(stream);
        }

        protected override int Release(nint handle) => Native.StreamDestroy(_context.Handle, handle);
    }
}
