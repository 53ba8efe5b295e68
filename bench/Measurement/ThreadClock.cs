using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.Versioning;

namespace AuxCore.Bench.Measurement;

/// <summary>
/// The processor time that the calling thread has used. On a shared machine it leaves out the time for which the thread was not running,
/// which wall clocks count; it also leaves out what other threads do, so it suits single-threaded work only.
/// </summary>
internal static unsafe partial class ThreadClock
{
    private const int ThreadCpuTime = 3; // CLOCK_THREAD_CPUTIME_ID of Linux's <time.h>

    /// <summary>False where <see cref="Nanoseconds"/> is the wall clock, because this system's thread clock is not bound.</summary>
    public static bool IsCpuTime { get; } = OperatingSystem.IsLinux();

    /// <summary>Nanoseconds since an arbitrary start; compare only readings of one thread.</summary>
    public static long Nanoseconds()
    {
        if (!OperatingSystem.IsLinux()) return WallNanoseconds();
        nint* time = stackalloc nint[2]; // struct timespec: seconds, nanoseconds
        if (ClockGetTime(ThreadCpuTime, time) != 0) throw new InvalidOperationException("clock_gettime(CLOCK_THREAD_CPUTIME_ID) failed.");
        return time[0] * 1_000_000_000L + time[1];
    }

    /// <summary>Nanoseconds of the wall clock since an arbitrary start.</summary>
    public static long WallNanoseconds() => Stopwatch.GetElapsedTime(0).Ticks * TimeSpan.NanosecondsPerTick;

    [SupportedOSPlatform("linux")]
    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int ClockGetTime(int clock, nint* time);
}
