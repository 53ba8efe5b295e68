using TorchSharp;
using BFloat16 = AuxCore.Interop.BFloat16;

namespace AuxCore.Tests.Interop;

public class BFloat16Tests
{
    [Fact]
    public void Every_bit_pattern_survives_the_round_trip_through_float()
    {
        for (var bits = 0; bits <= ushort.MaxValue; bits++)
        {
            var value = BFloat16.FromBits((ushort)bits);
            if (float.IsNaN(value))
                Assert.True(float.IsNaN((BFloat16)(float)value));
            else
                Assert.Equal((ushort)bits, ((BFloat16)(float)value).Bits);
        }
    }

    [Fact]
    [RequiresLibtorch]
    public void Rounding_agrees_with_libtorch()
    {
        var random = new Random(1);
        var values = Enumerable.Range(0, 100_000).Select(_ => BitConverter.Int32BitsToSingle(random.Next(int.MinValue, int.MaxValue)))
            .Concat([float.MaxValue, float.MinValue, float.Epsilon, 0f, -0f, float.PositiveInfinity, float.NegativeInfinity])
            .Where(value => !float.IsNaN(value)).ToArray();
        using var rounded = torch.tensor(values).to(torch.bfloat16).to(torch.float32);

        var expected = rounded.data<float>().ToArray();

        for (var i = 0; i < values.Length; i++)
            Assert.Equal(expected[i], (float)(BFloat16)values[i]);
    }

    [Theory]
    [InlineData(0x7F800001u)] // a NaN whose upper half alone would be infinity
    [InlineData(0xFFFFFFFFu)]
    [InlineData(0x7FC00000u)]
    public void NaN_stays_NaN(uint bits) => Assert.True(float.IsNaN((BFloat16)BitConverter.UInt32BitsToSingle(bits)));

    [Fact]
    public void Operators_compare_numbers_and_Equals_compares_keys()
    {
        var (zero, minusZero, nan) = ((BFloat16)0f, (BFloat16)(-0f), (BFloat16)float.NaN);

        Assert.True(zero == minusZero);
        Assert.True(nan != BFloat16.FromBits(nan.Bits));
        Assert.True(nan.Equals((object)nan));
        Assert.Equal(nan.GetHashCode(), BFloat16.FromBits(nan.Bits).GetHashCode());
        Assert.Equal("1.5", ((BFloat16)1.5f).ToString());
    }
}
