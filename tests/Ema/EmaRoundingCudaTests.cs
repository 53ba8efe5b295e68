using AuxCore.Interop;
using AuxCore.Kernels;
using AuxCore.Tests.Cuda;

namespace AuxCore.Tests.Ema;

/// <summary>Averages in bfloat16 on a device: the bits of the CPU backend, whatever the source's type, length and alignment.</summary>
public class EmaRoundingCudaTests
{
    private static readonly EmaRounding Forced = EmaRounding.Nearest(force: true);
    private static readonly BFloat16 Canary = (BFloat16)12345f;

    public EmaRoundingCudaTests() => CudaDriver.Require();

    [Theory]
    [InlineData(DType.Float32)]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float16)]
    public void Agrees_with_the_Cpu_bit_for_bit(DType dtype)
    {
        foreach (var length in (int[])[0, 1, 3, 4, 5, 7, 8, 9, 17, 31, 33, 129, 1000, 9001])
        {
            foreach (var (sourceOffset, averageOffset) in ((int, int)[])[(0, 0), (1, 1), (3, 0), (2, 3), (8, 4)])
            {
                foreach (var decay in length > 2000 ? (double[])[0.999] : [0, 0.25, 0.5, 0.999, 1])
                {
                    Check(dtype, length, sourceOffset, averageOffset, decay, EmaRounding.Stochastic(0x123456789abcdef0, 5_000_000_017, 3));
                    Check(dtype, length, sourceOffset, averageOffset, decay, Forced);
                }
            }
        }
    }

    private static void Check(DType dtype, int length, int sourceOffset, int averageOffset, double decay, EmaRounding rounding)
    {
        var random = new Random(length + sourceOffset);
        var source = Values(random, length + sourceOffset);
        BFloat16[] average = [.. Values(random, averageOffset + length).Select(value => (BFloat16)value), Canary];
        using var averageBuffer = DeviceBuffer.CopyOf<BFloat16>(average);
        var averageView = averageBuffer.ViewAt(averageOffset, length);
        var target = average.AsSpan(averageOffset, length);

        switch (dtype)
        {
            case DType.Float32:
                Update<float>(source);
                EmaUpdate.Run(target, source.AsSpan(sourceOffset), decay, rounding, AuxBackend.Cpu);
                break;
            case DType.BFloat16:
                BFloat16[] narrow = [.. source.Select(value => (BFloat16)value)];
                Update<BFloat16>(narrow);
                EmaUpdate.Run(target, narrow.AsSpan(sourceOffset), decay, rounding, AuxBackend.Cpu);
                break;
            default:
                Half[] half = [.. source.Select(value => (Half)value)];
                Update<Half>(half);
                EmaUpdate.Run(target, half.AsSpan(sourceOffset), decay, rounding, AuxBackend.Cpu);
                break;
        }

        Assert.True(
            Bits(average).SequenceEqual(Bits(averageBuffer.ToArray())),
            $"{dtype} n={length} +{sourceOffset} +{averageOffset} decay={decay} stochastic={rounding.IsStochastic}");

        void Update<T>(T[] values) where T : unmanaged
        {
            using var buffer = DeviceBuffer.CopyOf<T>(values);
            EmaUpdate.Run(averageView, buffer.ViewAt(sourceOffset, length), decay, rounding);
        }
    }

    [Fact]
    public void Special_values_follow_the_rule()
    {
        float[] specials = [0, -0f, 1, -1, float.NaN, float.PositiveInfinity, float.NegativeInfinity, 3.3e38f, -3.3e38f, 1e-40f];
        BFloat16[] e = [.. specials.SelectMany(_ => specials).Select(value => (BFloat16)value)];
        float[] p = [.. specials.SelectMany(value => Enumerable.Repeat(value, specials.Length))];
        foreach (var decay in (double[])[0, 0.25, 0.5, 0.9, 0.9999, 1])
        {
            foreach (var rounding in (EmaRounding[])[EmaRounding.Stochastic(2, 3), Forced])
            {
                var expected = (BFloat16[])e.Clone();
                EmaUpdate.Run(expected, p, decay, rounding, AuxBackend.Cpu);
                using var average = DeviceBuffer.CopyOf<BFloat16>(e);
                using var source = DeviceBuffer.CopyOf<float>(p);

                EmaUpdate.Run(average.View(e.Length), source.View(p.Length), decay, rounding);

                var actual = average.ToArray();
                for (var i = 0; i < e.Length; i++)
                {
                    var same = float.IsNaN((float)expected[i]) && decay < 1
                        ? float.IsNaN((float)actual[i]) // which NaN is the hardware's affair
                        : expected[i].Bits == actual[i].Bits;
                    Assert.True(same, $"decay={decay} e={e[i]} p={p[i]:R}: {actual[i]}, not {expected[i]}");
                }
            }
        }
    }

    [Fact]
    public void Groups_of_many_tensors_and_averages_equal_the_Cpu_over_several_updates()
    {
        var random = new Random(6);
        int[] lengths = [1, 0, 20_011, 3, 4096, 15, .. Enumerable.Range(0, 400).Select(_ => random.Next(1, 70))];
        double[] decays = [0.999, 0.3, 0.9];
        var sources = lengths.Select(length => Values(random, length)).ToArray();
        var averages = decays
            .Select(_ => lengths.Select(length => Values(random, length).Select(value => (BFloat16)value).ToArray()).ToArray()).ToArray();
        var sourceBuffers = sources.Select(values => DeviceBuffer.CopyOf<float>(values)).ToArray();
        var averageBuffers = averages.Select(list => list.Select(values => DeviceBuffer.CopyOf<BFloat16>(values)).ToArray()).ToArray();
        try
        {
            using var onDevice = EmaGroup.FromViews(
                [.. sourceBuffers.Select(buffer => buffer.View(buffer.Length))],
                [.. averageBuffers.Select(list => list.Select(buffer => buffer.View(buffer.Length)).ToArray())]);
            using var onHost = EmaGroup.Pin<float, BFloat16>(
                [.. sources.Select(values => (ReadOnlyMemory<float>)values)],
                [.. averages.Select(list => list.Select(values => (Memory<BFloat16>)values).ToArray())]);
            for (var step = 1; step < 5; step++)
            {
                onDevice.Update(decays, EmaRounding.Stochastic(ulong.MaxValue, step));
                onHost.Update(decays, EmaRounding.Stochastic(ulong.MaxValue, step));
            }

            for (var k = 0; k < decays.Length; k++)
            {
                for (var i = 0; i < lengths.Length; i++)
                    Assert.Equal(Bits(averages[k][i]), Bits(averageBuffers[k][i].ToArray()));
            }
        }
        finally
        {
            foreach (var buffer in sourceBuffers)
                buffer.Dispose();
            foreach (var buffer in averageBuffers.SelectMany(list => list))
                buffer.Dispose();
        }
    }

    [Fact]
    public void An_update_without_a_rounding_or_with_one_that_stands_still_is_refused()
    {
        using var average = DeviceBuffer.CopyOf<BFloat16>([(BFloat16)1f]);
        using var source = DeviceBuffer.CopyOf<float>([2f]);
        using var group = EmaGroup.FromViews([source.View(1)], [[average.View(1)]]);

        Assert.Contains("averages[0] is bfloat16", Assert.Throws<ArgumentException>(() => group.Update(0.5)).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "stands still",
            Assert.Throws<ArgumentOutOfRangeException>(() => group.Update([0.999], EmaRounding.Nearest())).Message,
            StringComparison.Ordinal);

        Assert.Equal(1f, (float)average.ToArray()[0]);
    }

    [Fact]
    public void A_group_with_averages_of_both_types_is_refused_before_anything_is_written()
    {
        using var narrow = DeviceBuffer.CopyOf<BFloat16>([(BFloat16)1f]);
        using var wide = DeviceBuffer.CopyOf<float>([1f]);
        using var source = DeviceBuffer.CopyOf<float>([2f]);
        using var group = EmaGroup.FromViews([source.View(1)], [[narrow.View(1)], [wide.View(1)]]);

        var error = Assert.Throws<BackendUnavailableException>(() => group.Update([0.5, 0.5], EmaRounding.Stochastic(1, 1)));

        Assert.Contains("averages of one type", error.Reason, StringComparison.Ordinal);
        Assert.Equal((1f, 1f), ((float)narrow.ToArray()[0], wide.ToArray()[0]));
    }

    private static float[] Values(Random random, int length) =>
        [.. Enumerable.Range(0, length).Select(_ => random.Next(9) == 0 ? 0 : (float)(random.NextDouble() - 0.5) * 8)];

    private static ushort[] Bits(ReadOnlySpan<BFloat16> values) => [.. values.ToArray().Select(value => value.Bits)];
}
