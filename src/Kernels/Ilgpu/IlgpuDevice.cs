using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;
using System.Reflection;
using System.Runtime.ExceptionServices;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;

namespace AuxCore.Kernels;

/// <summary>
/// ILGPU on one device, in the device's primary context, which libtorch, the CUDA runtime and <see cref="DeviceBuffer{T}"/> use too. There
/// is one a CUDA ordinal; it is opened when first needed and stays open until the process ends. Thread-safe.
/// </summary>
/// <remarks>
/// All use of the accelerator stands between <see cref="Enter"/> and the end of its scope. <c>ILGPU.Algorithms</c> is enabled: its
/// operations on the whole of a device (scan, sort, …) take <see cref="Accelerator"/> and <see cref="Stream"/>.
/// </remarks>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal sealed class IlgpuDevice : IDisposable
{
    private static readonly ConcurrentDictionary<int, IlgpuDevice> Opened = new();
    private static readonly Lock Opening = new();
    private static readonly Lazy<IlgpuDevice> Cpu = new(OpenCpu);

    private readonly Context _context;
    private readonly AddressSpace _addresses;
    private readonly nint _cudaContext; // 0: the CPU accelerator
    private readonly int _ordinal;
    private readonly bool _synchronous = Environment.GetEnvironmentVariable(CudaContext.SynchronousVariable) == "1";
    private readonly Dictionary<MethodInfo, object> _kept = [];
    private readonly ConcurrentDictionary<nint, AcceleratorStream> _streams = new();

    private IlgpuDevice(Context context, Accelerator accelerator, int ordinal, nint cudaContext)
    {
        (_context, Accelerator, _ordinal, _cudaContext) = (context, accelerator, ordinal, cudaContext);
        _addresses = new AddressSpace(accelerator);
        Memory = new DeviceMemory(_addresses);
    }

    /// <summary>The device's ILGPU, opened where it is not yet.</summary>
    /// <param name="device">A CUDA device; the host within <see cref="IlgpuBackend.WithCpu"/>.</param>
    /// <param name="operation">What it is for; messages name it.</param>
    /// <exception cref="BackendUnavailableException">Driver, device or shim are not there, or ILGPU does not work with them.</exception>
    public static IlgpuDevice Of(AuxDevice device, string operation)
    {
        if (device.Kind == AuxDeviceKind.Host)
            return IlgpuBackend.IsOnCpu ? Cpu.Value : throw Unavailable(operation, "the memory is on the host");
        return Opened.TryGetValue(device.Index, out var opened) ? opened : OpenFirst(device.Index, operation);
    }

    /// <summary>The accelerator, for what ILGPU and its algorithms need it for.</summary>
    public Accelerator Accelerator { get; }

    /// <summary>The CUDA ordinal; null for the CPU accelerator.</summary>
    public int? CudaOrdinal => _cudaContext == 0 ? null : _ordinal;

    /// <summary>All of the device's memory, for kernels that find addresses in a table.</summary>
    public DeviceMemory Memory { get; }

    /// <summary>
    /// Begins work with ILGPU on the calling thread, which has the primary context current until the scope ends, and then what it had
    /// before.
    /// </summary>
    public Scope Enter() => new(this);

    /// <summary>A stream that somebody else made.</summary>
    /// <param name="handle">A CUstream of the primary context; 0 is the legacy default stream.</param>
    public AcceleratorStream Stream(nint handle)
    {
        if (handle == 0 || Accelerator is not CudaAccelerator cuda)
            return Accelerator.DefaultStream;
        // The objects hold the handle and no more, so one stays right when the driver gives the handle to another stream.
        return _streams.GetOrAdd(handle, static (handle, cuda) => cuda.CreateStream(handle, responsible: false), cuda);
    }

    /// <summary>A view of memory that somebody else allocated and keeps alive while it is used.</summary>
    /// <inheritdoc cref="AddressSpace.View{T}"/>
    public ArrayView<T> View<T>(nint address, long length) where T : unmanaged => _addresses.View<T>(address, length);

    /// <summary>A kernel's launcher. It is compiled when first asked for, which takes a second or so.</summary>
    /// <typeparam name="TLauncher">An action of a stream, a <see cref="KernelConfig"/>, and the kernel's parameters.</typeparam>
    /// <param name="kernel">A static method, explicitly grouped.</param>
    /// <param name="maxThreads">The most threads of a block that it is launched with.</param>
    public TLauncher Kernel<TLauncher>(Delegate kernel, int maxThreads) where TLauncher : Delegate =>
        Keep(kernel.Method, () => Accelerator.LoadKernel<TLauncher>(kernel.Method, new KernelSpecialization(Threads(maxThreads), null)));

    /// <summary>
    /// What is made once for the device, such as the launcher of an algorithm. ILGPU unloads kernels that nobody holds, on the collector's
    /// thread; so whatever holds one is kept here.
    /// </summary>
    /// <param name="make">A static lambda expression, by which it is found again.</param>
    public T Keep<T>(Func<Accelerator, T> make) where T : class => Keep(make.Method, () => make(Accelerator));

    /// <summary>Threads of a block: as many as asked for, or as many warps as the accelerator has.</summary>
    public int Threads(int wanted) => Math.Min(wanted, Accelerator.MaxNumThreadsPerGroup / Accelerator.WarpSize * Accelerator.WarpSize);

    /// <summary>Waits for a launch where <c>AUXCORE_SYNC=1</c> asks for that: then the op that caused a fault reports it.</summary>
    public void AfterLaunch(AcceleratorStream stream)
    {
        if (_synchronous)
            stream.Synchronize();
    }

    /// <summary>What is wrong with memory that is said to be this device's, as the end of a sentence; null where nothing is.</summary>
    public string? WhyNotMemory(nint address, long bytes) =>
        _cudaContext == 0 || bytes == 0 ? null : IlgpuDriver.WhyNotMemory(_ordinal, address, bytes);

    /// <summary>Closes a device that <see cref="Open"/> made, and gives its primary context back.</summary>
    public void Dispose() => OnOwnThread(() =>
    {
        if (_cudaContext != 0)
            IlgpuDriver.PushContext(_cudaContext);
        Accelerator.Dispose();
        _context.Dispose();
        return true;
    });

    /// <summary>Opens a device without keeping it for others.</summary>
    internal static IlgpuDevice Open(int ordinal, string operation)
    {
        if (!IlgpuBackend.IsUsable(out var reason))
            throw Unavailable(operation, reason);
        try
        {
            return OnOwnThread(() => OpenCuda(ordinal, operation));
        }
        catch (Exception error) when (error is AcceleratorException or NotSupportedException)
        {
            throw Unavailable(operation, $"ILGPU does not open cuda:{ordinal}: {error.Message}");
        }
    }

    private static IlgpuDevice OpenCuda(int ordinal, string operation)
    {
        var primary = IlgpuDriver.RetainPrimaryContext(ordinal);
        Context? context = null;
        CudaAccelerator? accelerator = null;
        try
        {
            context = IlgpuContext.Create(
                builder => builder.Cuda(device => device.DeviceId == ordinal && device.InstructionSet is not null));
            var devices = context.GetCudaDevices();
            if (devices.Count == 0)
                throw Unavailable(
                    operation,
                    $"ILGPU does not see cuda:{ordinal}, or knows no PTX that its driver takes; where it was used before AuxCore, call "
                    + "AuxCore first");
            accelerator = devices[0].CreateCudaAccelerator(context);
            RequirePrimary(accelerator.NativePtr, primary, operation);
            return new IlgpuDevice(context, accelerator, ordinal, primary);
        }
        catch
        {
            accelerator?.Dispose();
            context?.Dispose();
            throw;
        }
        finally
        {
            IlgpuDriver.ReleasePrimaryContext(ordinal); // the accelerator retains it too
        }
    }

    /// <summary>Checks that ILGPU works where everybody else does.</summary>
    internal static void RequirePrimary(nint context, nint primary, string operation)
    {
        if (context != primary)
            throw Unavailable(operation, "ILGPU made a CUDA context of its own, because it was used before AuxCore; call AuxCore first");
    }

    // ILGPU leaves the context that it made or destroyed current on the thread. Here nobody else uses that thread.
    private static T OnOwnThread<T>(Func<T> function)
    {
        T? result = default;
        ExceptionDispatchInfo? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                result = function();
            }
            catch (Exception error)
            {
                failure = ExceptionDispatchInfo.Capture(error);
            }
        });
        thread.Start();
        thread.Join();
        failure?.Throw();
        return result!;
    }

    // One at a time, so that none is made twice. A failure is not remembered.
    private T Keep<T>(MethodInfo key, Func<T> make) where T : class
    {
        lock (_kept)
            return (T)(_kept.TryGetValue(key, out var kept) ? kept : _kept[key] = make());
    }

    private static IlgpuDevice OpenFirst(int ordinal, string operation)
    {
        lock (Opening)
            return Opened.TryGetValue(ordinal, out var opened) ? opened : Opened[ordinal] = Open(ordinal, operation);
    }

    // A warp a block: each simulated thread is a thread of the host, and the kernels ask for no more.
    private static IlgpuDevice OpenCpu()
    {
        var context = IlgpuContext.Create(builder => builder.CPU(new CPUDevice(32, 1, 1)));
        return new IlgpuDevice(context, context.GetCPUDevice(0).CreateCPUAccelerator(context), 0, 0);
    }

    private static BackendUnavailableException Unavailable(string operation, string reason) => new(operation, AuxBackend.Ilgpu, reason);

    // ILGPU remembers for each thread which accelerator it made current last, and relies on nobody else changing that. So the context is
    // pushed at every beginning, whatever ILGPU remembers.
    private (nint[]? Taken, Accelerator? Other) Begin()
    {
        if (_cudaContext == 0)
            return default;
        var other = Accelerator.Current == Accelerator ? null : Accelerator.Current;
        var taken = ThreadContexts.Take();
        try
        {
            IlgpuDriver.PushContext(_cudaContext);
            Accelerator.Bind();
            return (taken, other);
        }
        catch
        {
            ThreadContexts.PutBack(taken);
            throw;
        }
    }

    private void End((nint[]? Taken, Accelerator? Other) before)
    {
        if (_cudaContext == 0)
            return;
        try
        {
            before.Other?.Bind();
        }
        finally
        {
            ThreadContexts.PutBack(before.Taken);
        }
    }

    /// <summary>While it lasts, the primary context is the thread's only one, and ILGPU knows.</summary>
    public readonly ref struct Scope
    {
        private readonly IlgpuDevice _device;
        private readonly (nint[]?, Accelerator?) _before; // the thread's contexts, and the accelerator that another user of ILGPU had there

        internal Scope(IlgpuDevice device) => (_device, _before) = (device, device.Begin());

        /// <summary>Makes current what was so before.</summary>
        public void Dispose() => _device.End(_before);
    }
}
