using System.Numerics;

namespace AuxCore.Kernels;

/// <summary>Exchanges the contents of two blocks of memory, without a third.</summary>
internal static class MemoryExchange
{
    /// <param name="left">One block.</param>
    /// <param name="right">The other, as long; the two do not overlap.</param>
    public static void Run(Span<byte> left, Span<byte> right)
    {
        if (left.Length != right.Length)
            throw new ArgumentException($"right: {right.Length} bytes do not match left's {left.Length}", nameof(right));
        var at = 0;
        for (; at <= left.Length - Vector<byte>.Count; at += Vector<byte>.Count)
        {
            var (l, r) = (new Vector<byte>(left[at..]), new Vector<byte>(right[at..]));
            r.CopyTo(left[at..]);
            l.CopyTo(right[at..]);
        }

        for (; at < left.Length; at++)
            (left[at], right[at]) = (right[at], left[at]);
    }
}
