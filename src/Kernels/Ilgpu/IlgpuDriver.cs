using System.Diagnostics.CodeAnalysis;
using System.Reflection;
using System.Runtime.InteropServices;
using AuxCore.Interop;
using ILGPU;
using ILGPU.Runtime.Cuda;
using IlgpuCudaException = ILGPU.Runtime.Cuda.CudaException;

namespace AuxCore.Kernels;

/// <summary>
/// The CUDA driver as ILGPU and its plumbing see it: <c>libauxcore_ilgpu.so</c>, which passes everything on to libcuda.so.1, but gives the
/// device's primary context where ILGPU asks for a new one.
/// </summary>
[RequiresDynamicCode(IlgpuBackend.Dynamic), RequiresUnreferencedCode(IlgpuBackend.Dynamic)]
internal static unsafe class IlgpuDriver
{
    private static readonly Lock Installing = new();
    private static Functions Driver;
    private static bool IsInstalled;
    private static string Refusal = ""; // for good: an assembly has one resolver, and nobody can take it back

    /// <summary>Makes ILGPU call the shim, where it does not yet. Comes before ILGPU's first call of the driver.</summary>
    /// <param name="reason">Why that cannot be, and what to do about it; empty where it is done.</param>
    public static bool TryInstall(out string reason)
    {
        lock (Installing)
        {
            reason = Refusal;
            if (IsInstalled || reason.Length > 0)
                return IsInstalled;
            if (!IlgpuShim.TryLoad(out var shim, out reason) || !Functions.TryFind(shim, out Driver, out reason))
                return false;
            IsInstalled = TrySetResolver(typeof(Context).Assembly, shim, out Refusal);
            reason = Refusal;
            return IsInstalled;
        }
    }

    /// <summary>Makes the imports of ILGPU's assembly find the shim under the driver's name.</summary>
    internal static bool TrySetResolver(Assembly ilgpu, nint shim, out string reason)
    {
        try
        {
            NativeLibrary.SetDllImportResolver(
                ilgpu, (library, _, _) => library is CudaAPI.LibNameLinux or CudaAPI.LibNameWindows ? shim : 0);
            reason = "";
            return true;
        }
        catch (InvalidOperationException)
        {
            reason = $"the application has set a DllImport resolver for {ilgpu.GetName().Name}, and an assembly has only one; without "
                + "AuxCore's, ILGPU would work in a CUDA context of its own, where nobody else's memory is valid. Remove that resolver";
            return false;
        }
    }

    /// <summary>The context of a device that libtorch and the CUDA runtime use too; the caller gives it back.</summary>
    public static nint RetainPrimaryContext(int ordinal)
    {
        int device;
        nint context;
        Check(Driver.DeviceGet(&device, ordinal));
        Check(Driver.PrimaryContextRetain(&context, device));
        return context;
    }

    public static void ReleasePrimaryContext(int ordinal)
    {
        int device;
        Check(Driver.DeviceGet(&device, ordinal));
        Check(Driver.PrimaryContextRelease(device));
    }

    /// <summary>The topmost of the calling thread's contexts; 0 where it has none.</summary>
    public static nint CurrentContext()
    {
        Check(TryGetCurrentContext(out var context));
        return context;
    }

    public static void PushContext(nint context) => Check(TryPushContext(context));

    public static void PopContext() => Check(TryPopContext());

    public static int TryGetCurrentContext(out nint context)
    {
        fixed (nint* current = &context)
            return Driver.ContextGetCurrent(current);
    }

    public static int TryPushContext(nint context) => Driver.ContextPush(context);

    public static int TryPopContext()
    {
        nint popped;
        return Driver.ContextPop(&popped);
    }

    /// <summary>Throws ILGPU's exception for a CUresult, unless it is success.</summary>
    public static void Check(int result) => IlgpuCudaException.ThrowIfFailed((CudaError)result);

    /// <summary>What is wrong with memory that is said to be a device's; null where nothing is.</summary>
    public static string? WhyNotMemory(int ordinal, nint address, long bytes)
    {
        var last = address + (nint)(bytes - 1);
        return WhyNotMemory(ordinal, address, "begins") ?? WhyNotMemory(ordinal, last, "ends");
    }

    private static string? WhyNotMemory(int ordinal, nint address, string what)
    {
        const int MemoryType = 2, DeviceOrdinal = 9; // CUpointer_attribute
        const uint Device = 2; // CU_MEMORYTYPE_DEVICE
        var type = 0u;
        var on = -1;
        var attributes = stackalloc int[] { MemoryType, DeviceOrdinal };
        var values = stackalloc void*[] { &type, &on };
        Check(Driver.PointerAttributes(2, attributes, values, (nuint)address));
        return type != Device ? $"0x{address:x}, where it {what}, is not device memory"
            : on != ordinal ? $"0x{address:x} is memory of cuda:{on}"
            : null;
    }

    /// <summary>The driver's functions that ILGPU does not call itself, found where it finds its own.</summary>
    private struct Functions
    {
        public delegate* unmanaged<int*, int, int> DeviceGet;
        public delegate* unmanaged<nint*, int, int> PrimaryContextRetain;
        public delegate* unmanaged<int, int> PrimaryContextRelease;
        public delegate* unmanaged<nint*, int> ContextGetCurrent;
        public delegate* unmanaged<nint, int> ContextPush;
        public delegate* unmanaged<nint*, int> ContextPop;
        public delegate* unmanaged<uint, int*, void**, nuint, int> PointerAttributes;

        public static bool TryFind(nint shim, out Functions found, out string reason)
        {
            found = default;
            try
            {
                found.DeviceGet = (delegate* unmanaged<int*, int, int>)NativeLibrary.GetExport(shim, "cuDeviceGet");
                found.PrimaryContextRetain =
                    (delegate* unmanaged<nint*, int, int>)NativeLibrary.GetExport(shim, "cuDevicePrimaryCtxRetain");
                found.PrimaryContextRelease =
                    (delegate* unmanaged<int, int>)NativeLibrary.GetExport(shim, "cuDevicePrimaryCtxRelease_v2");
                found.ContextGetCurrent = (delegate* unmanaged<nint*, int>)NativeLibrary.GetExport(shim, "cuCtxGetCurrent");
                found.ContextPush = (delegate* unmanaged<nint, int>)NativeLibrary.GetExport(shim, "cuCtxPushCurrent_v2");
                found.ContextPop = (delegate* unmanaged<nint*, int>)NativeLibrary.GetExport(shim, "cuCtxPopCurrent_v2");
                found.PointerAttributes =
                    (delegate* unmanaged<uint, int*, void**, nuint, int>)NativeLibrary.GetExport(shim, "cuPointerGetAttributes");
                reason = "";
                return true;
            }
            catch (EntryPointNotFoundException error)
            {
                reason = $"the CUDA driver behind libauxcore_ilgpu.so lacks a function: {error.Message}";
                return false;
            }
        }
    }
}
