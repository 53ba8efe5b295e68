namespace AuxCore.Interop;

/// <summary>libauxcore_ilgpu: stands for the CUDA driver towards ILGPU, and keeps ILGPU in the primary context.</summary>
internal static class IlgpuShim
{
    private static readonly Lock Loading = new();
    private static nint LoadedHandle;

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
