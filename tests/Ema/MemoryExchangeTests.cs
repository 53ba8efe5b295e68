using AuxCore.Kernels;

namespace AuxCore.Tests.Ema;

public class MemoryExchangeTests
{
    [Fact]
    public void Exchanges_every_byte_and_no_other()
    {
        for (var length = 0; length < 150; length++)
        {
            var (left, right) = (new byte[length + 2], new byte[length + 2]);
            new Random(length).NextBytes(left);
            new Random(length + 1000).NextBytes(right);
            var (oldLeft, oldRight) = ((byte[])left.Clone(), (byte[])right.Clone());

            MemoryExchange.Run(left.AsSpan(1, length), right.AsSpan(1, length));

            Assert.Equal([oldLeft[0], .. oldRight[1..^1], oldLeft[^1]], left);
            Assert.Equal([oldRight[0], .. oldLeft[1..^1], oldRight[^1]], right);
        }
    }

    [Fact]
    public void Lengths_must_agree() => Assert.Throws<ArgumentException>(() => MemoryExchange.Run(new byte[2], new byte[3]));
}
