using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using AuxCore.Interop;

namespace AuxCore.Kernels;

/// <summary>
/// Whether this process may use ILGPU, which compiles at run time. Applications that were trimmed or compiled ahead of time may not, and
/// get none of its code: whatever touches ILGPU is reached through <see cref="IsSupported"/> only, as the build's analysers check.
/// </summary>
internal static class IlgpuBackend
{
    /// <summary>Why members need dynamic code: what the analysers say where one is reached without <see cref="IsSupported"/>.</summary>
    public const string Dynamic = "ILGPU compiles kernels at run time.";

    private const string Switch = "AuxCore.Ilgpu.IsSupported";

    [ThreadStatic]
    private static bool OnCpu;

    /// <summary>False where code cannot be made at run time, or where the application's switch of that name says so.</summary>
    [FeatureSwitchDefinition(Switch)]
    [FeatureGuard(typeof(RequiresDynamicCodeAttribute))]
    [FeatureGuard(typeof(RequiresUnreferencedCodeAttribute))]
    [UnconditionalSuppressMessage("AOT", "IL4000", Justification = "Trimming and AOT put false here, by the guard and by the switch.")]
    public static bool IsSupported => RuntimeFeature.IsDynamicCodeSupported && (!AppContext.TryGetSwitch(Switch, out var on) || on);

    /// <summary>Whether, on this thread, the backend works on host memory, on ILGPU's CPU accelerator.</summary>
    public static bool IsOnCpu => OnCpu;

    /// <summary>Whether a driver, a device, the shim and ILGPU are there. Nothing is compiled, and no context is made.</summary>
    /// <param name="reason">Why not, and what to do about it; empty where they are.</param>
    public static bool IsUsable(out string reason)
    {
        if (IsSupported)
        {
            reason = "";
            return IsOnCpu || (AuxRuntime.IsAvailable(AuxBackend.Ilgpu, out reason) && IlgpuDriver.TryInstall(out reason));
        }

        reason = "ILGPU compiles kernels at run time, which an application that was trimmed or compiled ahead of time cannot; use Cuda";
        return false;
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
