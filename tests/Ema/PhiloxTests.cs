using AuxCore.Kernels;
using CsCheck;

namespace AuxCore.Tests.Ema;

public class PhiloxTests
{
    // The known answers that come with the authors' Random123 (kat_vectors, philox4x32 with ten rounds).
    [Theory]
    [InlineData(0u, 0u, 0u, 0u, 0ul, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u)]
    [InlineData(~0u, ~0u, ~0u, ~0u, ~0ul, 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu)]
    [InlineData(
        0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0x299f31d0a4093822ul, 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u)]
    public void Known_answers_are_met(uint c0, uint c1, uint c2, uint c3, ulong key, uint r0, uint r1, uint r2, uint r3) =>
        Assert.Equal((r0 | ((ulong)r1 << 32), r2 | ((ulong)r3 << 32)), Philox.Block(c0, c1, c2, c3, key));

    [Fact]
    public void Many_blocks_are_the_blocks_one_by_one() => Gen
        .Select(Gen.Int[0, 40], Gen.UInt[0, uint.MaxValue - 40], Gen.UInt, Gen.UInt, Gen.UInt, Gen.ULong)
        .Sample((blocks, first, c1, c2, c3, key) =>
        {
            var words = new ulong[2 * blocks + 1];
            words[^1] = 4711;
            unsafe
            {
                fixed (ulong* destination = words)
                    Philox.Fill(destination, blocks, first, c1, c2, c3, key);
            }

            return words[^1] == 4711 && Enumerable.Range(0, blocks)
                .All(i => (words[2 * i], words[2 * i + 1]) == Philox.Block(first + (uint)i, c1, c2, c3, key));
        });
}
