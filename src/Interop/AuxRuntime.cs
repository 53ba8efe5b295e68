using System.Globalization;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Text;

namespace AuxCore.Interop;

/// <summary>What this process can run, how many threads it may use, and what it ran.</summary>
public static class AuxRuntime
{
    private const string BackendVariable = "AUXCORE_BACKEND";
    private const string ThreadsVariable = "AUXCORE_THREADS";
    private static int CurrentCpuThreads = ParseThreads(Environment.GetEnvironmentVariable(ThreadsVariable));
    private static Exception? Failure;

    /// <summary>
    /// The threads that one call on the CPU backend may use, 1 at first (or what <c>AUXCORE_THREADS</c> says). Small work runs on the
    /// calling thread whatever this is. Results do not depend on it.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The value is below 1.</exception>
    public static int CpuThreads
    {
        get => CurrentCpuThreads;
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, 1);
            CurrentCpuThreads = value;
        }
    }

    /// <summary>Where AuxCore says in passing what it noticed (a group rebuilt because tensors moved, say); null for silence.</summary>
    public static Action<string>? Log { get; set; }

    /// <summary>Whether a backend can run on this machine at all; a single op may still not have it.</summary>
    /// <param name="backend">The backend that is asked about.</param>
    /// <param name="reason">Why not, and what to do about it; empty where it can.</param>
    /// <exception cref="ArgumentOutOfRangeException">The value names no backend.</exception>
    public static bool IsAvailable(AuxBackend backend, out string reason)
    {
        reason = "";
        return backend switch
        {
            AuxBackend.Auto or AuxBackend.Cpu or AuxBackend.Reference => true,
            AuxBackend.Cuda => CudaLibrary.IsUsable(out reason),
            AuxBackend.Ilgpu =>
                IlgpuShim.IsAllowed(out reason) && CudaLibrary.HasDevice(out reason) && IlgpuShim.TryLoad(out _, out reason),
            _ => throw new ArgumentOutOfRangeException(nameof(backend), backend, "Not a backend."),
        };
    }

    /// <summary>
    /// Throws what went wrong in a backward pass since the last call, if anything did: an exception there would end the process, so
    /// gradients become NaN instead. The operations that have such a backward pass ask this themselves before they run.
    /// </summary>
    public static void ThrowIfFailed()
    {
        if (Interlocked.Exchange(ref Failure, null) is { } failure)
            ExceptionDispatchInfo.Throw(failure);
    }

    /// <summary>Keeps the first failure for <see cref="ThrowIfFailed"/>.</summary>
    internal static void Fail(Exception failure) => Interlocked.CompareExchange(ref Failure, failure, null);

    /// <summary>
    /// A few lines for bug reports and curiosity: versions, processor, vector width, each backend with the reason where it is missing, the
    /// environment variables that are set, and how often each op ran where.
    /// </summary>
    public static string Describe()
    {
        var text = new StringBuilder();
        void Line(string name, string value) => text.Append(CultureInfo.InvariantCulture, $"{name,-16}{value}\n");

        Line("AuxCore", typeof(AuxRuntime).Assembly.GetName().Version?.ToString(3) ?? "unknown");
        Line(
            "runtime",
            $"{RuntimeInformation.FrameworkDescription}, {RuntimeInformation.RuntimeIdentifier}, "
            + $"{RuntimeInformation.OSDescription.Trim()}");
        Line("processor", $"{Environment.ProcessorCount} x {RuntimeInformation.ProcessArchitecture}, vectors of up to {VectorBits} bits");
        Line("threads", $"{CpuThreads} for the CPU backend");
        foreach (var backend in (AuxBackend[])[AuxBackend.Cpu, AuxBackend.Reference, AuxBackend.Cuda, AuxBackend.Ilgpu])
            Line(backend.ToString(), IsAvailable(backend, out var reason) ? "available" : "not available: " + reason);
        if (CudaLibrary.DeviceImage() is { } image)
            Line("device code", image);
        for (var ordinal = 0; ordinal < CudaDevice.Count; ordinal++)
            Line($"cuda:{ordinal}", DescribeDevice(ordinal));
        foreach (var variable in
            (string[])[BackendVariable, ThreadsVariable, "AUXCORE_SIMD", CudaContext.SynchronousVariable, NativeLibraries.FolderVariable])
        {
            if (Environment.GetEnvironmentVariable(variable) is { Length: > 0 } value)
                Line(variable, value);
        }

        foreach (var (op, backend, calls) in OpCounter.Snapshot())
            Line(op, string.Create(CultureInfo.InvariantCulture, $"{calls} calls on {backend}"));
        return text.ToString();
    }

    /// <summary>What <c>AUXCORE_BACKEND</c> asks <see cref="AuxBackend.Auto"/> to be, or Auto.</summary>
    /// <exception cref="AuxException">The variable names no backend.</exception>
    internal static AuxBackend AutoOverride()
    {
        if (Environment.GetEnvironmentVariable(BackendVariable) is not { Length: > 0 } text)
            return AuxBackend.Auto;
        return Enum.TryParse<AuxBackend>(text, ignoreCase: true, out var backend) && Enum.IsDefined(backend) && !char.IsAsciiDigit(text[0])
            ? backend
            : throw new AuxException(
                BackendVariable,
                $"The environment variable {BackendVariable} is '{text}'; it may be {string.Join(", ", Enum.GetNames<AuxBackend>())}.");
    }

    // A device may be there and refuse all work; that is worth a line here, and no reason to fail.
    private static string DescribeDevice(int ordinal)
    {
        try
        {
            var device = CudaDevice.Get(ordinal);
            return string.Create(
                CultureInfo.InvariantCulture,
                $"{device.Name}, compute capability {device.ComputeCapability}, {device.Multiprocessors} multiprocessors, "
                + $"{device.MemoryBytes / 1e9:F1} GB, driver for CUDA {device.DriverVersion}");
        }
        catch (AuxException error)
        {
            return error.Message;
        }
    }

    private static int VectorBits =>
        Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : Vector128.IsHardwareAccelerated ? 128 : 0;

    // A property must not fail for an environment variable's sake: what cannot be understood counts as unset, and Describe shows it.
    internal static int ParseThreads(string? text) =>
        int.TryParse(text, CultureInfo.InvariantCulture, out var threads) && threads >= 1 ? threads : 1;
}
