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

    [Fact]
    public void A_half_life_is_counted_in_steps_however_seldom_the_updates()
    {
        var schedule = EmaSchedule.HalfLife(500);

        Assert.Equal(0.5, Math.Pow(schedule.DecayAt(0, every: 10), 50), 12);
        Assert.Equal(0.5, schedule.DecayAt(0, every: 500), 12);
    }

    [Fact]
    public void A_ramp_begins_by_copying_and_is_diffusers_formula()
    {
        var schedule = EmaSchedule.Ramp(minimum: 0.25, maximum: 0.999);

        Assert.Equal([0, 0.25, 0.25, 0.999], [.. ((long[])[0, 1, 2, 100_000]).Select(step => schedule.DecayAt(step))]);
        Assert.Equal(101.0 / 110, schedule.DecayAt(100));
        Assert.Equal(2.0 / 11, EmaSchedule.Ramp().DecayAt(1));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(10)]
    public void A_mean_gives_every_update_the_same_weight(int every)
    {
        var (schedule, mean) = (EmaSchedule.Mean(), 77.0);

        for (var update = 0; update < 40; update++)
        {
            var decay = schedule.DecayAt(update * every, every);
            mean = decay * mean + (1 - decay) * update * update;
            Assert.Equal(Enumerable.Range(0, update + 1).Average(n => (double)n * n), mean, 1e-9);
        }
    }

    [Theory]
    [InlineData(0.05, 16.97)] // the values of the paper's table: 16.97 and 6.94
    [InlineData(0.10, 6.94)]
    [InlineData(0.25, 0.72)]
    public void The_exponent_of_a_power_function_is_the_largest_root(double sigma, double gamma)
    {
        var found = PowerFunctionProfile.GammaOf(sigma);

        Assert.Equal(gamma, found, 0.005);
        Assert.Equal(sigma * sigma, (found + 1) / ((found + 2) * (found + 2) * (found + 3)), 1e-15);
        Assert.True(PowerFunctionProfile.SigmaOf(found * 1.001) < sigma); // beyond it only smaller ones: it is the largest
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void A_power_function_weighs_steps_by_their_power_and_has_the_width_asked_for(int every)
    {
        const double Sigma = 0.1;
        const int Updates = 20_000;
        var schedule = EmaSchedule.PowerFunction(Sigma);
        var gamma = PowerFunctionProfile.GammaOf(Sigma);
        var weights = new double[Updates];
        var left = 1.0;
        for (var update = Updates - 1; update >= 0; update--)
        {
            var decay = schedule.DecayAt((long)update * every, every);
            weights[update] = left * (1 - decay);
            left *= decay;
        }

        Assert.Equal(0, left); // the first update copies
        Assert.Equal(1, weights.Sum(), 1e-12);
        var mean = weights.Select((weight, n) => weight * (n + 1) / Updates).Sum();
        var deviation = Math.Sqrt(weights.Select((weight, n) => weight * Math.Pow((n + 1.0) / Updates - mean, 2)).Sum());
        Assert.Equal((gamma + 1) / (gamma + 2), mean, 1e-3);
        Assert.Equal(Sigma, deviation, 1e-4);
        Assert.Equal(Math.Pow(0.5, gamma), weights[Updates / 2 - 1] / weights[^1], 1e-4);
    }

    [Fact]
    public void A_schedule_of_the_callers_own_is_asked_at_each_step_and_held_to_the_unit_interval()
    {
        Assert.Equal(0.25, EmaSchedule.Custom(step => step / 8.0).DecayAt(2, every: 2));
        foreach (var bad in (double[])[double.NaN, -0.1, 1.1])
        {
            Assert.Contains(
                "'mine' gave", Assert.Throws<InvalidOperationException>(() => EmaSchedule.Custom(_ => bad, "mine").DecayAt(0)).Message,
                StringComparison.Ordinal);
        }

        Assert.Throws<ArgumentNullException>(() => EmaSchedule.Custom(null!));
        Assert.Throws<ArgumentNullException>(() => EmaSchedule.Custom(_ => 0, null!));
    }

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(0)]
    [InlineData(-0.1)]
    [InlineData(0.3004)]
    [InlineData(double.PositiveInfinity)]
    public void Widths_without_a_power_function_are_refused(double sigma) =>
        Assert.Equal("sigma", Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.PowerFunction(sigma)).ParamName);

    [Theory]
    [InlineData(double.NaN)]
    [InlineData(-0.1)]
    [InlineData(1.1)]
    public void Decays_outside_the_unit_interval_are_refused(double decay)
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Constant(decay));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(minimum: decay));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.WarmUp(maximum: decay));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Ramp(minimum: decay));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Ramp(maximum: decay));
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
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Ramp(minimum: 0.9, maximum: 0.8));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Constant(0.9).DecayAt(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmaSchedule.Constant(0.9).DecayAt(0, every: 0));
    }

    [Fact]
    public void Schedules_say_what_they_are()
    {
        Assert.Equal("constant(0.999)", EmaSchedule.Constant(0.999).ToString());
        Assert.Equal("warm-up(gamma 1, power 0.75, 0 to 0.9999)", EmaSchedule.WarmUp(power: 0.75).ToString());
        Assert.Equal(
            ["half-life(500)", "ramp(0 to 0.9999)", "power function(sigma 0.05)", "mean", "mine"],
            [.. ((EmaSchedule[])[EmaSchedule.HalfLife(500), EmaSchedule.Ramp(), EmaSchedule.PowerFunction(0.05), EmaSchedule.Mean(),
                EmaSchedule.Custom(_ => 0, "mine")]).Select(schedule => schedule.ToString())]);
    }
}
