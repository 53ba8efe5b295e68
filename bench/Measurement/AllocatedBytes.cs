using System.Runtime.InteropServices;
using System.Runtime.Versioning;

namespace AuxCore.Bench.Measurement;

/// <summary>
/// The bytes that native code has allocated and not freed, as glibc counts them: libtorch's tensors on the CPU are among them, .NET's own
/// heap is not. Differences between two readings are exact but for allocation headers and rounding to pages, as long as no other thread
/// allocates; what has been freed does not count, whether or not it went back to the system.
/// </summary>
internal static partial class AllocatedBytes
{
    private static readonly Lazy<bool> Found = new(() => OperatingSystem.IsLinux() && TryRead(out _));

    /// <summary>False where the C library has no <c>mallinfo2</c> (glibc before 2.33, musl, other systems).</summary>
    public static bool IsAvailable => Found.Value;

    /// <summary>Bytes in use now.</summary>
    /// <exception cref="PlatformNotSupportedException"><see cref="IsAvailable"/> is false.</exception>
    public static long Now() => IsAvailable && TryRead(out long bytes)
        ? bytes
        : throw new PlatformNotSupportedException("The C library has no mallinfo2, which counts allocated bytes.");

    private static bool TryRead(out long bytes)
    {
        bytes = 0;
        if (!OperatingSystem.IsLinux()) return false;
        try
        {
            MallocInfo info = MallInfo2();
            bytes = (long)(info.InUse + info.Mapped);
            return true;
        }
        catch (EntryPointNotFoundException)
        {
            return false;
        }
    }

    [SupportedOSPlatform("linux")]
    [LibraryImport("libc", EntryPoint = "mallinfo2")]
    private static partial MallocInfo MallInfo2();

    /// <summary><c>struct mallinfo2</c>: ten numbers of the size of a pointer.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct MallocInfo
    {
        public nuint Arena, OrdinaryChunks, FastChunks, MappedChunks, Mapped, Unused, FreedFast, InUse, Free, Releasable;
    }
}
