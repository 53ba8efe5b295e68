using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace AuxCore.Kernels;

/// <summary>
/// Asks for memory a little ahead of a streaming loop. The processor's own prefetchers follow streams too, but on the machine measured
/// (Zen 3) an in-place update gained 5 to 8 % at distances of 256 to 768 bytes and lost beyond 1.5 KB. A hint: any address is allowed.
/// </summary>
internal static unsafe class Prefetch
{
    private const int Distance = 512;
    private const int CacheLine = 64;

    /// <summary>
    /// Asks for the lines that a block of <paramref name="bytes"/> (a constant, at most 256) will touch, some blocks from now.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Ahead(void* block, int bytes)
    {
        if (!Sse.IsSupported)
            return;
        var at = (byte*)block + Distance;
        Sse.Prefetch0(at);
        if (bytes > CacheLine)
            Sse.Prefetch0(at + CacheLine);
        if (bytes > 2 * CacheLine)
        {
            Sse.Prefetch0(at + 2 * CacheLine);
            Sse.Prefetch0(at + 3 * CacheLine);
        }
    }

    /// <summary>Asks for the beginning of a row that is somewhere else than the one before, which the processor does not foresee.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Row(void* row, long bytes)
    {
        if (!Sse.IsSupported)
            return;
        var end = (byte*)row + Math.Min(bytes, Distance);
        for (var at = (byte*)row; at < end; at += CacheLine)
            Sse.Prefetch0(at);
    }
}
