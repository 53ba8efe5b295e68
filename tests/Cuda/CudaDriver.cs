using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using AuxCore.Interop;

namespace AuxCore.Tests.Cuda;

/// <summary>
/// The CUDA driver that the tests run on: the machine's own where it has one, else the stand-in that the build made
/// (native/cuda/simulator), which runs kernels on the CPU, checks all it is given, and can be made to fail.
/// </summary>
internal static unsafe class CudaDriver
{
    private const string Library = "libcuda.so.1";

    /// <summary>The stand-in; 0 where the machine's own driver is used, or there is neither.</summary>
    private static nint Standin;

#pragma warning disable CA2255 // Its soname makes the library's own dlopen find it, if it is loaded before the first AuxCore call.
    [ModuleInitializer]
    internal static void Load()
    {
        if (NativeLibrary.TryLoad(Library, out var found))
        {
            if (NativeLibrary.TryGetExport(found, "auxcore_standin", out _)) // LD_LIBRARY_PATH leads to it
                Standin = found;
            return;
        }

        var path = Path.Combine(AppContext.BaseDirectory, "standin", Library);
        if (File.Exists(path))
            Standin = NativeLibrary.Load(path);
    }
#pragma warning restore CA2255

    public static bool IsStandin => Standin != 0;

    /// <summary>Skips the test where kernels cannot run, with the reason that a user would get.</summary>
    public static void Require() =>
        Assert.SkipUnless(AuxRuntime.IsAvailable(AuxBackend.Cuda, out var reason), $"no CUDA here: {reason}");

    /// <summary>Skips the test on a real device.</summary>
    public static void RequireStandin()
    {
        Require();
        Assert.SkipUnless(IsStandin, "needs the stand-in driver; this machine has a real one");
    }

    /// <summary>Driver calls so far.</summary>
    public static long Calls => ((delegate* unmanaged<long>)Export("auxcore_standin_calls"))();

    /// <summary>Kernels that ran so far.</summary>
    public static long Launches => State.Launches;

    /// <summary>What exists now.</summary>
    public static StandinState State
    {
        get
        {
            StandinState state;
            ((delegate* unmanaged<StandinState*, void>)Export("auxcore_standin_get_state"))(&state);
            return state;
        }
    }

    /// <summary>The n-th driver call from now fails; it takes that back when disposed.</summary>
    public static Failing Fail(long nth, int error = 719)
    {
        SetFailing(nth, error);
        return new Failing();
    }

    /// <summary>The name of the driver function that was last made to fail.</summary>
    public static string Failed => Marshal.PtrToStringUTF8(((delegate* unmanaged<nint>)Export("auxcore_standin_failed"))()) ?? "";

    private static void SetFailing(long nth, int error) =>
        ((delegate* unmanaged<long, int, void>)Export("auxcore_standin_fail"))(nth, error);

    private static nint Export(string name) => NativeLibrary.GetExport(Standin, name);

    /// <summary><c>auxcore_standin_state</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public readonly record struct StandinState(
        long Allocations, long AllocatedBytes, long RetainedContexts, long PushedContexts, long Modules, long Streams, long Events,
        long Graphs, long Launches, long Pending);

    public readonly struct Failing : IDisposable
    {
        public void Dispose() => SetFailing(0, 0);
    }
}
