using System.Runtime.InteropServices;

namespace AuxCore.Interop;

/// <summary>libauxcore: whether it is there, is ours, and finds a driver, a device and its own device code.</summary>
internal static unsafe class CudaLibrary
{
    private static readonly Lock Loading = new();
    private static nint LoadedHandle;
    private static bool FoundDevice;
    private static bool HasImage;

    /// <summary>The library, loaded and found to be of our version; 0 where it is not.</summary>
    public static nint Handle => TryLoad(out _) ? LoadedHandle : 0;

    /// <summary>Whether there is a device to work with. Failures are not remembered: what is mended is found.</summary>
    /// <param name="reason">Why not, and what to do about it; empty where there is.</param>
    public static bool HasDevice(out string reason)
    {
        if (!TryLoad(out reason))
            return false;
        if (!FoundDevice)
        {
            reason = Native.DeviceCount(out var count) != NativeStatus.Ok ? NativeStatus.LastMessage()
                : count == 0 ? "the CUDA driver finds no device"
                : "";
            FoundDevice = reason.Length == 0;
        }

        return FoundDevice;
    }

    /// <summary>Whether there is a device, and device code for it.</summary>
    /// <inheritdoc cref="HasDevice" path="/param"/>
    public static bool IsUsable(out string reason)
    {
        if (!HasDevice(out reason))
            return false;
        if (!HasImage && DeviceImage() == "none")
        {
            reason = "libauxcore.so was built without device code: "
                + (NativeLibraries.BuildNote(AppContext.BaseDirectory) ?? "install clang-19 (or CUDA's nvcc) and build again");
            return false;
        }

        return HasImage = true;
    }

    /// <summary>What the device code was compiled with; "none" without, null where the library does not load.</summary>
    public static string? DeviceImage() => TryLoad(out _) ? Marshal.PtrToStringUTF8((nint)Native.DeviceImage()) : null;

    private static bool TryLoad(out string reason)
    {
        reason = "";
        if (Volatile.Read(ref LoadedHandle) != 0)
            return true;
        lock (Loading)
        {
            if (LoadedHandle != 0)
                return true;
            if (!NativeLibraries.TryLoad(Native.Library, out var handle, out reason) || !IsOurs(handle, out reason))
                return false;
            Volatile.Write(ref LoadedHandle, handle);
            return true;
        }
    }

    /// <summary>Whether a library has every function that is imported, in the version that is imported.</summary>
    internal static bool IsOurs(nint handle, out string reason)
    {
        reason = "";
        if (!NativeLibrary.TryGetExport(handle, "auxcore_abi_version", out var version))
        {
            reason = "the libauxcore.so that was loaded is not AuxCore's: it has no auxcore_abi_version";
            return false;
        }

        var actual = ((delegate* unmanaged<uint>)version)();
        if (actual != Native.AbiVersion)
        {
            reason = $"libauxcore.so has ABI version {actual}, AuxCore.Interop wants {Native.AbiVersion}; take both from one release";
            return false;
        }

        foreach (var name in NativeExports.Names)
        {
            if (!NativeLibrary.TryGetExport(handle, name, out _))
            {
                reason = $"libauxcore.so has no function {name}, although its ABI version is {actual}; build or install it anew";
                return false;
            }
        }

        return true;
    }
}
