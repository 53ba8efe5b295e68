using AuxCore.Models;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace AuxCore.Tests.Predictive;

/// <summary>Sets of states by hashing: their share, their bits, what they are a function of.</summary>
[RequiresLibtorch]
public class HashIndicatorsTests
{
    private const int Tasks = 37, Length = 40;

    [Fact]
    public void A_set_holds_about_its_share_of_different_observations()
    {
        using var scope = torch.NewDisposeScope();
        var sets = new HashIndicators(Length, Tasks, rate: 0.05, seed: 1);
        var report = sets.Inspect(Observations(4000));

        Assert.Equal(20, sets.Bins);
        Assert.Equal(4000, report.States);
        Assert.InRange(report.MeanRate, 0.045, 0.055); // 148,000 hashes: nine standard deviations
        Assert.Empty(report.DeadTasks);
    }

    [Fact]
    public void Bits_and_counts_are_the_same_sets_and_depend_on_the_observation_alone()
    {
        using var scope = torch.NewDisposeScope();
        var sets = new HashIndicators(Length, Tasks, 0.1, seed: 1);
        var observations = Observations(50);
        var bits = sets.Pack(observations);
        Assert.Equal([50, 5], bits.shape);
        Assert.Equal(torch.uint8, bits.dtype);
        var packed = bits.data<byte>().ToArray();
        var set = Enumerable.Range(0, 50 * Tasks).Count(at => (packed[at / Tasks * 5 + at % Tasks / 8] >> at % Tasks % 8 & 1) == 1);
        Assert.Equal(sets.Inspect(observations).MeanRate, set / (50.0 * Tasks), 1e-12);

        Assert.Equal(packed, sets.Pack(observations.to(torch.float32)).data<byte>().ToArray());
        Assert.Equal(packed, sets.Pack(observations.to(torch.@bool)).data<byte>().ToArray()); // they are 0 and 1
        Assert.Equal(packed, sets.Pack(observations.view(50, 4, 10)).data<byte>().ToArray());
        Assert.Equal(packed, new HashIndicators(Length, Tasks, 0.1, seed: 1).Pack(observations).data<byte>().ToArray());
        Assert.NotEqual(packed, new HashIndicators(Length, Tasks, 0.1, seed: 2).Pack(observations).data<byte>().ToArray());
        Assert.Equal(packed[5..10], sets.Pack(observations.narrow(0, 1, 1)).data<byte>().ToArray());
    }

    [Fact]
    public void The_hash_is_linear_modulo_a_prime()
    {
        // Of an observation of zeros only b counts; every multiple of P added to the sum is invisible.
        using var scope = torch.NewDisposeScope();
        var sets = new HashIndicators(length: 1, tasks: 2000, rate: 0.5, seed: 3);
        var inside = new List<int>();
        foreach (var value in (byte[])[0, 1, 2, 255])
            inside.Add((int)(sets.Inspect(torch.tensor(new[] { value })).MeanRate * 2000 + 0.5));
        Assert.All(inside, count => Assert.InRange(count, 1000 - 112, 1000 + 112)); // five standard deviations, for any value
    }

    [Fact]
    public void What_does_not_fit_is_refused()
    {
        using var scope = torch.NewDisposeScope();
        var sets = new HashIndicators(Length, Tasks, 0.1);
        Assert.Contains("[3, 39]", Assert.Throws<ArgumentException>(
            () => sets.Pack(torch.zeros(3, 39, torch.uint8))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => sets.Pack(torch.zeros(3, Length, torch.int64)));
        Assert.Throws<ArgumentException>(() => sets.Pack(torch.zeros(0, Length, torch.uint8)));
        Assert.Contains("whole number", Assert.Throws<ArgumentException>(
            () => sets.Pack(torch.full([1, Length], 0.5f))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => sets.Pack(torch.full([1, Length], 256f)));
        Assert.Throws<ArgumentNullException>(() => sets.Pack(null!));
        foreach (var rate in (double[])[0, 1, double.NaN, 1e-4])
            Assert.Throws<ArgumentOutOfRangeException>("rate", () => new HashIndicators(Length, Tasks, rate));
        Assert.Throws<ArgumentOutOfRangeException>("length", () => new HashIndicators(0, Tasks, 0.1));
        Assert.Throws<ArgumentOutOfRangeException>("tasks", () => new HashIndicators(Length, 0, 0.1));
        TensorLeaks.None(() =>
        {
            using var zeros = torch.zeros(2, Length, torch.uint8);
            sets.Pack(zeros).Dispose();
            sets.Inspect(zeros);
        });
    }

    private static Tensor Observations(long count)
    {
        using var generator = new torch.Generator(5, torch.CPU);
        return (torch.rand([count, Length], generator: generator) < 0.3).to(torch.uint8);
    }
}
