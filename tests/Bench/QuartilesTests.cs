using AuxCore.Bench.Measurement;
using CsCheck;

namespace AuxCore.Tests.Bench;

public class QuartilesTests
{
    [Theory]
    [InlineData(new double[] { 7 }, 7, 7, 7)]
    [InlineData(new double[] { 2, 1 }, 1.5, 1.25, 1.75)]
    [InlineData(new double[] { 1, 2, 3, 4 }, 2.5, 1.75, 3.25)] // numpy.percentile([1, 2, 3, 4], [50, 25, 75])
    [InlineData(new double[] { 5, 1, 4, 2, 3 }, 3, 2, 4)]
    [InlineData(new double[] { 10, 20, 30, 40, 50, 60, 70 }, 40, 25, 55)]
    public void Type_7_as_in_numpy(double[] values, double median, double q1, double q3) =>
        Assert.Equal(new Quartiles(median, q1, q3), Quartiles.Of(values));

    [Fact]
    public void Infinities_stay_infinities() =>
        Assert.Equal(double.PositiveInfinity, Quartiles.Of([1, double.PositiveInfinity, double.PositiveInfinity]).Q3);

    [Fact]
    public void Nothing_and_NaN_are_refused()
    {
        Assert.Throws<ArgumentException>(() => Quartiles.Of([]));
        Assert.Throws<ArgumentException>(() => Quartiles.Of([1, double.NaN]));
    }

    [Fact]
    public void Quartiles_are_ordered_within_the_range_and_do_not_depend_on_order() =>
        Gen.Double[-1e9, 1e9].Array[1, 50].Sample(values =>
        {
            Quartiles q = Quartiles.Of(values);
            Assert.True(values.Min() <= q.Q1 && q.Q1 <= q.Median && q.Median <= q.Q3 && q.Q3 <= values.Max());
            Assert.Equal(q, Quartiles.Of([.. values.Reverse()]));
        });
}
