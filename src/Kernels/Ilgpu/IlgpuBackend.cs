using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>Whether the ILGPU backend works here, and the switch by which tests run it without a device.</summary>
internal static class IlgpuBackend
{
    /// <summary>
    /// Why members need dynamic code: what the build's analysers say where one is reached without <see cref="IlgpuShim.IsSupported"/>.
    /// </summary>
    public const string Dynamic = "ILGPU compiles kernels at run time.";

    /// <summary>
    /// Why device code is left out of coverage: ILGPU compiles the IL of these methods, and what coverage tools write into it (counters,
    /// pointers) is nothing that a device can run.
    /// </summary>
    public const string DeviceCode = "ILGPU compiles this IL for a device.";

    [ThreadStatic]
    private static bool OnCpu;

    /// <summary>Whether, on this thread, the backend works on host memory, on ILGPU's CPU accelerator.</summary>
    public static bool IsOnCpu => OnCpu;

    /// <summary>Whether a driver, a device, the shim and ILGPU are there. Nothing is compiled, and no context is made.</summary>
    /// <param name="reason">Why not, and what to do about it; empty where they are.</param>
    public static bool IsUsable(out string reason)
    {
        if (!IlgpuShim.IsSupported)
            return IlgpuShim.IsAllowed(out reason);
        reason = "";
        return IsOnCpu || (AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out reason) && IlgpuDriver.TryInstall(out reason));
    }

    /// <summary>
    /// Runs an action during which this thread's <see cref="AuxBackend.Ilgpu"/> means ILGPU's CPU accelerator and host memory: how tests
    /// run its kernels without a device. It simulates each thread of a device, thousands of times slower than the Cpu backend.
    /// </summary>
    public static void WithCpu(Action action)
    {
        OnCpu = true;
        try
        {
            action();
        }
        finally
        {
            OnCpu = false;
        }
    }
}
