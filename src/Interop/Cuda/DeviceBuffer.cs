namespace AuxCore.Interop;

/// <summary>An owner of device memory that can tell whether the memory is still there.</summary>
internal interface IDeviceMemory
{
    bool IsDisposed { get; }
}

/// <summary>Makes <see cref="DeviceBuffer{T}"/>s.</summary>
public static unsafe class DeviceBuffer
{
    /// <summary>Allocates; the contents are undefined.</summary>
    /// <typeparam name="T">The element type: one that <see cref="DTypes.Of{T}"/> knows.</typeparam>
    /// <param name="length">The number of elements, at least 0.</param>
    /// <param name="device">The device's ordinal.</param>
    /// <exception cref="ArgumentOutOfRangeException">The length is negative, or more bytes than 64 bits count.</exception>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is not the element type of any <see cref="DType"/>.</exception>
    /// <exception cref="BackendUnavailableException">The library, the driver or the device is not there.</exception>
    /// <exception cref="CudaException">The device has not that much memory, or the driver failed.</exception>
    public static DeviceBuffer<T> Allocate<T>(long length, int device = 0) where T : unmanaged
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, long.MaxValue / sizeof(T));
        return new DeviceBuffer<T>(CudaContext.Of(device, nameof(DeviceBuffer)), length);
    }

    /// <summary>Allocates memory for a copy of host memory.</summary>
    /// <typeparam name="T">The element type.</typeparam>
    /// <param name="source">What is copied.</param>
    /// <param name="device">The device's ordinal.</param>
    /// <inheritdoc cref="Allocate{T}" path="/exception"/>
    public static DeviceBuffer<T> CopyOf<T>(ReadOnlySpan<T> source, int device = 0) where T : unmanaged
    {
        var buffer = Allocate<T>(source.Length, device);
        try
        {
            buffer.CopyFrom(source);
            return buffer;
        }
        catch
        {
            buffer.Dispose();
            throw;
        }
    }
}

/// <summary>
/// Memory of a CUDA device, in its primary context: what ops work on where no framework holds the tensors. Not thread-safe against
/// <see cref="Dispose"/>; otherwise any thread may use it.
/// </summary>
/// <typeparam name="T">The element type: one that <see cref="DTypes.Of{T}"/> knows.</typeparam>
/// <remarks>Copies are ordered on their stream and complete when they return. Freeing waits for the device.</remarks>
public sealed unsafe class DeviceBuffer<T> : IDisposable, IDeviceMemory where T : unmanaged
{
    private readonly CudaContext _context;
    private readonly Allocation? _allocation; // null where there are no elements

    internal DeviceBuffer(CudaContext context, long length)
    {
        _context = context;
        Length = length;
        DType = DTypes.Of<T>();
        if (length == 0)
            return;
        NativeStatus.Check(Native.Allocate(context.Handle, length * sizeof(T), out var address), nameof(DeviceBuffer));
        _allocation = new Allocation(context, address);
    }

    /// <summary>The number of elements.</summary>
    public long Length { get; }

    /// <summary>The type of the elements.</summary>
    public DType DType { get; }

    /// <summary>Where the memory is.</summary>
    public AuxDevice Device => new(AuxDeviceKind.Cuda, _context.Ordinal);

    /// <summary>The CUdeviceptr of element 0; 0 if there are no elements. The buffer's owner keeps it alive while it is used.</summary>
    /// <exception cref="ObjectDisposedException">The buffer was disposed.</exception>
    public nint Address
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsDisposed, this);
            return _allocation?.Address ?? 0;
        }
    }

    /// <summary>Whether the memory was freed.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Copies host memory into the buffer.</summary>
    /// <param name="source">As many elements as the buffer has.</param>
    /// <param name="stream">Where the copy is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Another number of elements, or a stream of another device. Nothing was copied.</exception>
    /// <exception cref="CudaException">The driver failed; the contents are undefined.</exception>
    /// <exception cref="ObjectDisposedException">The buffer or the stream was disposed.</exception>
    public void CopyFrom(ReadOnlySpan<T> source, CudaStream? stream = null)
    {
        RequireLength(source.Length, nameof(source));
        var on = CudaStream.HandleOn(stream, Device, nameof(stream));
        fixed (T* from = source)
            NativeStatus.Check(Native.CopyToDevice(_context.Handle, on, (ulong)Address, from, ByteCount), nameof(DeviceBuffer));
        GC.KeepAlive(this);
    }

    /// <summary>Copies the buffer into host memory.</summary>
    /// <param name="destination">As many elements as the buffer has.</param>
    /// <param name="stream">Where the copy is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">Another number of elements, or a stream of another device. Nothing was copied.</exception>
    /// <exception cref="CudaException">The driver failed; the destination is undefined.</exception>
    /// <exception cref="ObjectDisposedException">The buffer or the stream was disposed.</exception>
    public void CopyTo(Span<T> destination, CudaStream? stream = null)
    {
        RequireLength(destination.Length, nameof(destination));
        var on = CudaStream.HandleOn(stream, Device, nameof(stream));
        fixed (T* to = destination)
            NativeStatus.Check(Native.CopyToHost(_context.Handle, on, to, (ulong)Address, ByteCount), nameof(DeviceBuffer));
        GC.KeepAlive(this);
    }

    /// <summary>The contents, as a new array.</summary>
    /// <param name="stream">Where the copy is ordered; the default stream without.</param>
    /// <inheritdoc cref="CopyTo" path="/exception"/>
    public T[] ToArray(CudaStream? stream = null)
    {
        var array = new T[Length];
        CopyTo(array, stream);
        return array;
    }

    /// <summary>Makes every byte of the buffer the same; asynchronous.</summary>
    /// <param name="value">The byte.</param>
    /// <param name="stream">Where it is ordered; the default stream without.</param>
    /// <exception cref="ArgumentException">A stream of another device.</exception>
    /// <exception cref="CudaException">The driver failed.</exception>
    /// <exception cref="ObjectDisposedException">The buffer or the stream was disposed.</exception>
    public void FillBytes(byte value, CudaStream? stream = null)
    {
        var on = CudaStream.HandleOn(stream, Device, nameof(stream));
        NativeStatus.Check(Native.Fill(_context.Handle, on, (ulong)Address, value, ByteCount), nameof(DeviceBuffer));
        GC.KeepAlive(this);
    }

    /// <summary>Views the whole buffer as a contiguous tensor.</summary>
    /// <param name="shape">Sizes whose product is <see cref="Length"/>.</param>
    /// <exception cref="ArgumentException">The sizes do not multiply to the length.</exception>
    /// <exception cref="ObjectDisposedException">The buffer was disposed.</exception>
    public TensorView View(params ReadOnlySpan<long> shape)
    {
        var view = TensorView.FromPointer((void*)Address, DType, shape, device: Device, owner: this);
        return view.ElementCount == Length
            ? view
            : throw new ArgumentException($"shape {TensorView.Format(shape)} does not match the buffer's {Length} elements", nameof(shape));
    }

    /// <summary>Views a part of the buffer as a contiguous tensor.</summary>
    /// <param name="offset">The element at which it begins.</param>
    /// <param name="shape">Its sizes.</param>
    /// <exception cref="ArgumentException">The part is not all within the buffer.</exception>
    /// <exception cref="ObjectDisposedException">The buffer was disposed.</exception>
    public TensorView ViewAt(long offset, params ReadOnlySpan<long> shape)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length);
        var view = TensorView.FromPointer((T*)Address + offset, DType, shape, device: Device, owner: this);
        return view.ElementCount <= Length - offset
            ? view
            : throw new ArgumentException(
                $"shape {TensorView.Format(shape)} from element {offset} on exceeds the buffer's {Length} elements", nameof(shape));
    }

    /// <summary>Frees the memory, after the device has come to the end of its work.</summary>
    public void Dispose()
    {
        if (IsDisposed)
            return;
        IsDisposed = true;
        _allocation?.Dispose();
    }

    private long ByteCount => Length * sizeof(T);

    private void RequireLength(int given, string parameter)
    {
        if (given != Length)
            throw new ArgumentException($"{parameter}: {given} elements do not match the buffer's {Length}", parameter);
    }

    private sealed class Allocation : NativeHandle
    {
        private readonly CudaContext _context;

        public Allocation(CudaContext context, ulong address)
        {
            _context = context;
            SetHandle((nint)address);
        }

        public nint Address => handle;

        protected override int Release(nint handle) => Native.Free(_context.Handle, (ulong)handle);
    }
}
