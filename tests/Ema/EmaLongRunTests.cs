using AuxCore.Bench.Workloads;

namespace AuxCore.Tests.Ema;

/// <summary>
/// What averages in bfloat16 do over tens of thousands of updates; the experiment <c>models ema-storage</c> prints the table.
/// </summary>
public class EmaLongRunTests
{
    [Theory]
    [InlineData(nameof(AverageStorage.Float32), 1e-5)]
    [InlineData(nameof(AverageStorage.Float32OfBFloat16), 1e-3)]
    [InlineData(nameof(AverageStorage.BFloat16Stochastic), 0.03)]
    public void Averages_that_keep_the_mean_follow_the_weights(string storage, double mostError)
    {
        foreach (var decay in (double[])[0.99, 0.999])
        {
            var result = DriftingWeights.Run(Enum.Parse<AverageStorage>(storage), decay, 20_000, seed: 1);

            Assert.InRange(result.MovementKept, 0.98, 1.02);
            Assert.InRange(result.RelativeError, 0, mostError);
        }
    }

    [Fact]
    public void Rounded_to_the_nearest_they_stand_still()
    {
        var slow = DriftingWeights.Run(AverageStorage.BFloat16Nearest, 0.9999, 20_000, seed: 1);
        var fast = DriftingWeights.Run(AverageStorage.BFloat16Nearest, 0.99, 20_000, seed: 1);

        Assert.InRange(slow.MovementKept, -0.05, 0.05);
        Assert.InRange(slow.RelativeError, 0.2, 1);
        Assert.InRange(fast.MovementKept, 0.1, 1); // most decays below the limit move
    }

    [Fact]
    public void Random_errors_do_not_add_up()
    {
        // The error of one rounding is 1/256 of a value at most; a random walk of as many steps as updates would be 100 times that.
        var half = DriftingWeights.Run(AverageStorage.BFloat16Stochastic, 0.999, 10_000, seed: 2);
        var whole = DriftingWeights.Run(AverageStorage.BFloat16Stochastic, 0.999, 40_000, seed: 2);

        Assert.InRange(whole.RelativeError / half.RelativeError, 0.5, 2);
    }
}
