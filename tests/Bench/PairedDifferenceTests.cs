using AuxCore.Bench.Measurement;

namespace AuxCore.Tests.Bench;

public class PairedDifferenceTests
{
    // Two-sided 95 % points of Student's t as printed in NIST/SEMATECH's handbook, 1.3.6.7.2.
    [Theory]
    [InlineData(1, 12.706)]
    [InlineData(2, 4.303)]
    [InlineData(3, 3.182)]
    [InlineData(4, 2.776)]
    [InlineData(5, 2.571)]
    [InlineData(9, 2.262)]
    [InlineData(10, 2.228)]
    [InlineData(29, 2.045)]
    [InlineData(30, 2.042)]
    [InlineData(100, 1.984)]
    public void T_quantiles_are_those_of_the_tables(int degreesOfFreedom, double expected) =>
        Assert.Equal(expected, StudentT.TwoSided95(degreesOfFreedom), 5e-4);

    [Fact]
    public void Zero_degrees_of_freedom_are_refused() => Assert.Throws<ArgumentOutOfRangeException>(() => StudentT.TwoSided95(0));

    [Fact]
    public void Interval_of_five_seeds()
    {
        // Differences 1, 2, 3, 4, 5: mean 3, standard deviation sqrt(2.5), half width 2.7764 · sqrt(2.5 / 5).
        PairedDifference difference = PairedDifference.Of([11, 12, 13, 14, 15], [10, 10, 10, 10, 10]);
        Assert.Equal(5, difference.Seeds);
        Assert.Equal(3, difference.Mean, 1e-12);
        Assert.Equal(3 - 1.96324, difference.Low, 1e-5);
        Assert.Equal(3 + 1.96324, difference.High, 1e-5);
    }

    [Fact]
    public void Pairing_removes_what_seeds_share()
    {
        PairedDifference difference = PairedDifference.Of([51, 71, 91, 31], [50, 70, 90, 30]);
        Assert.Equal((1, 1, 1), (difference.Mean, difference.Low, difference.High));
        Assert.Equal("better", difference.Verdict());
    }

    [Theory]
    [InlineData(new double[] { 1, 2, 3, 4, 5 }, true, "better")]
    [InlineData(new double[] { 1, 2, 3, 4, 5 }, false, "worse")]
    [InlineData(new double[] { -1, -2, -3, -4, -5 }, true, "worse")]
    [InlineData(new double[] { -1, -2, -3, -4, -5 }, false, "better")]
    [InlineData(new double[] { 1, -2, 3, -4, 5 }, true, "no difference shown")]
    [InlineData(new double[] { 0, 0, 0, 0 }, true, "no difference shown")]
    [InlineData(new double[] { 5, 5, 5 }, true, "same sign in 3 of 3")]
    [InlineData(new double[] { -5, -6, -5 }, true, "same sign in 3 of 3")]
    [InlineData(new double[] { 5, 5, -1 }, true, "signs differ")]
    [InlineData(new double[] { 5, 5, 0 }, true, "signs differ")]
    public void Verdicts(double[] differences, bool higherIsBetter, string expected) =>
        Assert.Equal(expected, PairedDifference.Of(differences, new double[differences.Length]).Verdict(higherIsBetter));

    [Fact]
    public void One_seed_has_no_interval()
    {
        PairedDifference difference = PairedDifference.Of([2], [1]);
        Assert.Equal(1, difference.Mean);
        Assert.True(double.IsNaN(difference.Low) && double.IsNaN(difference.High));
    }

    [Fact]
    public void Unpaired_values_are_refused()
    {
        Assert.Throws<ArgumentException>(() => PairedDifference.Of([1, 2], [1]));
        Assert.Throws<ArgumentException>(() => PairedDifference.Of([], []));
    }
}
