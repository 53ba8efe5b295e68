using AuxCore.Models;

namespace AuxCore.Tests.Averaging;

public class EmaScheduleTests
{
    [Fact]
    public void Constant_is_constant() =>
        Assert.Equal([0.9, 0.9], [EmaSchedule.Constant(0.9).DecayAt(0), EmaSchedule.Constant(0.9).DecayAt(long.MaxValue)]);

    [Fact]
    public void After_a_half_life_half_is_left() =>
        Assert.Equal(0.5, Math.Pow(EmaSchedule.HalfLife(500).DecayAt(7), 500), 12);

    [Fact]
    public void Warm_up_begins_by_copying_and_grows_to_its_maximum()
    {
        var schedule = EmaSchedule.WarmUp(power: 0.75, maximum: 0.9995);
        var decays = Enumerable.Range(0, 50_000).Select(step => schedule.DecayAt(step)).ToArray();

        Assert.Equal(0, decays[0]);
        Assert.Equal(1 - Math.Pow(1 + 9.0, -0.75), decays[9], 15);
        Assert.Equal(decays.Order(), decays);
        Assert.InRange(decays[9_999], 0.9989, 0.9991); // the documentation says 0.999 after some 10,000
        Assert.Equal(0.9995, decays[^1]);
        Assert.Equal(0.2, EmaSchedule.WarmUp(minimum: 0.2).DecayAt(0));
        Assert.InRange(EmaSchedule.WarmUp().DecayAt(31_600), 0.99899, 0.99901);
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(-0.1)]
    [InlineData(1.1)]
    public void Decays_outside_the_unit_interval_are_refused(double decay)
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Constant(decay));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(minimum: decay));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(maximum: decay));
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(0)]
    [InlineData(-1)]
    public void Scales_are_above_zero(double value)
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.HalfLife(value));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(gamma: value));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(power: value));
    }

    [Fact]
    public void A_minimum_above_the_maximum_and_a_negative_step_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(minimum: 0.9, maximum: 0.8));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Constant(0.9).DecayAt(-1));
    }

    [Fact]
    public void Schedules_say_what_they_are()
    {
        Assert.Equal("constant(0.999)", EmaSchedule.Constant(0.999).ToString());
        Assert.Equal("warm-up(gamma 1, power 0.75, 0 to 0.9999)", EmaSchedule.WarmUp(power: 0.75).ToString());
    }
}
