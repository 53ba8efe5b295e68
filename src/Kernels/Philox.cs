using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace AuxCore.Kernels;

/// <summary>
/// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw (2011, "Parallel random numbers: as easy as 1, 2, 3"):
/// 128 random bits are a function of a 128-bit counter and a 64-bit key. There is no state, so numbers do not depend on the order, the
/// thread, the vector width or the device in which they are asked for.
/// </summary>
internal static unsafe class Philox
{
    private const ulong M0 = 0xD2511F53, M1 = 0xCD9E8D57;
    private const uint W0 = 0x9E3779B9, W1 = 0xBB67AE85;
    private const int Rounds = 10;

    /// <summary>One block: counter words c0 to c3, key k (its low half is the first word).</summary>
    /// <returns>The four words, the first two in the low half, the first of each two in its lower bits.</returns>
    public static (ulong Low, ulong High) Block(uint c0, uint c1, uint c2, uint c3, ulong key)
    {
        var (k0, k1) = ((uint)key, (uint)(key >> 32));
        for (var round = 0; round < Rounds; round++)
        {
            var (p0, p1) = (M0 * c0, M1 * c2);
            (c0, c1, c2, c3) = ((uint)(p1 >> 32) ^ c1 ^ k0, (uint)p1, (uint)(p0 >> 32) ^ c3 ^ k1, (uint)p0);
            k0 += W0;
            k1 += W1;
        }

        return (c0 | ((ulong)c1 << 32), c2 | ((ulong)c3 << 32));
    }

    /// <summary>Consecutive blocks: those of the counters (first, c1, c2, c3), (first + 1, c1, c2, c3), ….</summary>
    /// <param name="destination">Two words of 64 bits a block.</param>
    /// <param name="blocks">How many; first + blocks is at most 2^32.</param>
    /// <param name="first">The counter's first word.</param>
    /// <param name="c1">Its second.</param>
    /// <param name="c2">Its third.</param>
    /// <param name="c3">Its fourth.</param>
    /// <param name="key">The key.</param>
    public static void Fill(ulong* destination, int blocks, uint first, uint c1, uint c2, uint c3, ulong key)
    {
        var at = 0;
        if (Avx2.IsSupported)
        {
            for (; at <= blocks - 2 * Vector256<ulong>.Count; at += 2 * Vector256<ulong>.Count)
                Fill8(destination + 2 * at, first + (uint)at, c1, c2, c3, key);
        }

        for (; at < blocks; at++)
            (destination[2 * at], destination[2 * at + 1]) = Block(first + (uint)at, c1, c2, c3, key);
    }

    // A block in each lane of 64 bits. Only the lower half of a lane is multiplied, so what the upper one holds on the way does not matter.
    // Two vectors at a time: the products' latency is most of a round.
    private static void Fill8(ulong* destination, uint first, uint c1, uint c2, uint c3, ulong key)
    {
        var (m0, m1) = (Vector256.Create(M0), Vector256.Create(M1));
        var a0 = Vector256.Create((ulong)first) + Vector256<ulong>.Indices;
        var b0 = a0 + Vector256.Create((ulong)Vector256<ulong>.Count);
        Vector256<ulong> a1 = Vector256.Create((ulong)c1), a2 = Vector256.Create((ulong)c2), a3 = Vector256.Create((ulong)c3);
        Vector256<ulong> b1 = a1, b2 = a2, b3 = a3;
        var (k0, k1) = ((uint)key, (uint)(key >> 32));
        for (var round = 0; round < Rounds; round++)
        {
            Vector256<ulong> key0 = Vector256.Create((ulong)k0), key1 = Vector256.Create((ulong)k1);
            Vector256<ulong> p0 = Product(m0, a0), p1 = Product(m1, a2), q0 = Product(m0, b0), q1 = Product(m1, b2);
            (a0, a1, a2, a3) = ((p1 >>> 32) ^ a1 ^ key0, p1, (p0 >>> 32) ^ a3 ^ key1, p0);
            (b0, b1, b2, b3) = ((q1 >>> 32) ^ b1 ^ key0, q1, (q0 >>> 32) ^ b3 ^ key1, q0);
            k0 += W0;
            k1 += W1;
        }

        Store(destination, a0, a1, a2, a3);
        Store(destination + 2 * Vector256<ulong>.Count, b0, b1, b2, b3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ulong> Product(Vector256<ulong> left, Vector256<ulong> right) =>
        Avx2.Multiply(left.AsUInt32(), right.AsUInt32()); // of the lower halves, in full

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(ulong* destination, Vector256<ulong> c0, Vector256<ulong> c1, Vector256<ulong> c2, Vector256<ulong> c3)
    {
        var lower = Vector256.Create(0xFFFFFFFFul);
        Vector256<ulong> low = (c0 & lower) | (c1 << 32), high = (c2 & lower) | (c3 << 32);
        Vector256<ulong> even = Avx2.UnpackLow(low, high), odd = Avx2.UnpackHigh(low, high); // blocks 0 and 2, blocks 1 and 3
        even.GetLower().Store(destination);
        odd.GetLower().Store(destination + 2);
        even.GetUpper().Store(destination + 4);
        odd.GetUpper().Store(destination + 6);
    }
}
