using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace AuxCore.Interop;

/// <summary>libauxcore_ilgpu: stands for the CUDA driver towards ILGPU, and keeps ILGPU in the primary context.</summary>
internal static class IlgpuShim
{
    private const string Switch = "AuxCore.Ilgpu.IsSupported";

    private static readonly Lock Loading = new();
    private static nint LoadedHandle;

    /// <summary>
    /// Whether the application may use ILGPU, which compiles at run time from what trimming removes. False where code cannot be made at run
    /// time, or where the application's switch says so, as the linker's does; then none of the code behind it is in the application.
    /// </summary>
    [FeatureSwitchDefinition(Switch)]
    [FeatureGuard(typeof(RequiresDynamicCodeAttribute))]
    [FeatureGuard(typeof(RequiresUnreferencedCodeAttribute))]
    [UnconditionalSuppressMessage("AOT", "IL4000", Justification = "Trimming and AOT put false here, by the guard and by the switch.")]
    public static bool IsSupported => RuntimeFeature.IsDynamicCodeSupported && (!AppContext.TryGetSwitch(Switch, out var on) || on);

    /// <summary><see cref="IsSupported"/>, with the reason.</summary>
    public static bool IsAllowed(out string reason)
    {
        reason = IsSupported
            ? ""
            : "ILGPU compiles kernels at run time, which an application that was trimmed or compiled ahead of time cannot; use Cuda";
        return IsSupported;
    }

    /// <summary>Loads it. Failures are not remembered.</summary>
    /// <param name="handle">The library, which stays loaded.</param>
    /// <param name="reason">Why not, and what to do about it; empty where it is loaded.</param>
    public static bool TryLoad(out nint handle, out string reason)
    {
        lock (Loading)
        {
            reason = "";
            if (LoadedHandle == 0 && NativeLibraries.TryLoad("auxcore_ilgpu", out var loaded, out reason))
                LoadedHandle = loaded;
            handle = LoadedHandle;
            return handle != 0;
        }
    }
}
