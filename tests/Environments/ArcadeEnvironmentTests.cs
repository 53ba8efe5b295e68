using AuxCore.Bench.Workloads;
using AuxCore.Models;

namespace AuxCore.Tests.Environments;

/// <summary>All games: what a seed determines, sticky actions, observations, and what random play gives.</summary>
public class ArcadeEnvironmentTests
{
    public static TheoryData<ArcadeGame, int> Channels => new()
    {
        { ArcadeGame.Breakout, 4 }, { ArcadeGame.Asterix, 4 }, { ArcadeGame.Freeway, 7 }, { ArcadeGame.Seaquest, 10 },
        { ArcadeGame.SpaceInvaders, 6 },
    };

    // Random play of the original's code: mean return with its standard error over 1,000 episodes (Freeway 100), and mean length.
    public static TheoryData<ArcadeGame, int, double, double, double> RandomPlay => new()
    {
        { ArcadeGame.Breakout, 1000, 0.51, 0.02, 11.2 },
        { ArcadeGame.Asterix, 1000, 0.45, 0.03, 69.5 },
        { ArcadeGame.Freeway, 100, 0.08, 0.03, 2501 },
        { ArcadeGame.Seaquest, 1000, 0.11, 0.01, 31.2 },
        { ArcadeGame.SpaceInvaders, 1000, 2.89, 0.08, 52.1 },
    };

    [Theory]
    [MemberData(nameof(RandomPlay))]
    public void Random_play_is_as_good_and_as_long_as_in_the_original(
        ArcadeGame game, int episodes, double itsReturn, double itsError, double itsLength)
    {
        var (returns, lengths) = ArcadePlay.Random(game, episodes, seed: 1);

        Assert.Equal(episodes, returns.Length);
        Assert.InRange(Math.Abs(returns.Average() - itsReturn), 0, 4 * Math.Sqrt(itsError * itsError + Square(Error(returns))));
        // The original's lengths have about the same spread as ours, and are rounded to a tenth.
        Assert.InRange(Math.Abs(lengths.Average() - itsLength), 0, 4 * Math.Sqrt(2) * Error(lengths) + 0.05);

        static double Error(double[] values)
        {
            var mean = values.Average();
            return Math.Sqrt(values.Sum(value => Square(value - mean)) / (values.Length - 1) / values.Length);
        }

        static double Square(double value) => value * value;
    }

    [Theory]
    [MemberData(nameof(Channels))]
    public void A_game_does_not_care_how_many_others_there_are(ArcadeGame game, int channels)
    {
        var (few, many) = (new ArcadeEnvironment(game, 3, seed: 5), new ArcadeEnvironment(game, 17, seed: 5));
        var other = new ArcadeEnvironment(game, 3, seed: 6);
        Assert.Equal(channels, few.Channels);
        var (a, b, c) = (new Run(few), new Run(many), new Run(other));
        var differs = false;
        for (var step = 0; step < 400; step++)
        {
            a.Step();
            b.Step();
            c.Step();
            Assert.Equal(a.Packed, b.Packed[..a.Packed.Length]);
            Assert.Equal(a.Rewards, b.Rewards[..3]);
            Assert.Equal(a.Done, b.Done[..3]);
            differs |= !a.Packed.AsSpan().SequenceEqual(c.Packed);
        }

        Assert.True(differs);
        Assert.NotEqual(b.Packed[..few.PackedBytes], b.Packed[few.PackedBytes..(2 * few.PackedBytes)]); // each goes its own way
    }

    [Theory]
    [MemberData(nameof(Channels))]
    public void Reset_begins_the_same_games_again(ArcadeGame game, int channels)
    {
        var environment = new ArcadeEnvironment(game, 4, seed: 2);
        var first = new List<byte[]>();
        var run = new Run(environment);
        for (var step = 0; step < 150; step++)
        {
            run.Step();
            first.Add([.. run.Packed]);
        }

        Assert.Equal(150, environment.Steps);
        environment.Reset();
        Assert.Equal(0, environment.Steps);
        foreach (var expected in first)
        {
            run.Step();
            Assert.Equal(expected, run.Packed);
        }

        Assert.Equal(channels * 100, environment.Cells);
    }

    [Theory]
    [MemberData(nameof(Channels))]
    public void Numbers_and_bits_say_the_same(ArcadeGame game, int channels)
    {
        var environment = new ArcadeEnvironment(game, 5, seed: 3);
        var run = new Run(environment);
        for (var step = 0; step < 40; step++)
            run.Step();

        var values = new float[5 * channels * 100];
        environment.Observe(values);
        for (var at = 0; at < values.Length; at++)
        {
            var (row, cell) = (at / environment.Cells, at % environment.Cells);
            Assert.Equal(run.Packed[row * environment.PackedBytes + cell / 8] >> cell % 8 & 1, values[at]);
        }

        Assert.Contains(1, values);
    }

    [Fact]
    [RequiresLibtorch]
    public void A_tensor_has_the_shape_of_the_games()
    {
        var environment = new ArcadeEnvironment(ArcadeGame.Freeway, 3, seed: 1);
        var values = new float[3 * 700];
        environment.Observe(values);
        using var tensor = environment.Observe();
        Assert.Equal([3, 7, 10, 10], tensor.shape);
        Assert.Equal(values, tensor.data<float>().ToArray());
    }

    [Fact]
    public void A_tenth_of_the_steps_repeats_the_action_before()
    {
        var environment = new ArcadeEnvironment(ArcadeGame.SpaceInvaders, 1000, seed: 1);
        var (rewards, done) = (new float[1000], new bool[1000]);
        var (actions, before) = (new int[1000], new int[1000]);
        var repeated = 0;
        for (var step = 0; step < 100; step++)
        {
            Array.Fill(actions, 1 + step % 5); // never the one before
            environment.Executed.CopyTo(before);
            environment.Step(actions, rewards, done);
            for (var i = 0; i < 1000; i++)
            {
                var executed = environment.Executed[i];
                Assert.True(executed == actions[i] || executed == before[i]); // at first that is 0, and the end of a game changes nothing
                repeated += executed != actions[i] ? 1 : 0;
            }
        }

        Assert.InRange(repeated, 9_400, 10_100); // of 100,000; a few repeat what is chosen again

        var free = new ArcadeEnvironment(ArcadeGame.SpaceInvaders, 1000, seed: 1, stickiness: 0);
        free.Step(actions, rewards, done);
        Assert.Equal(actions, free.Executed.ToArray());
    }

    [Fact]
    public void Actions_are_drawn_uniformly_and_the_same_when_asked_again()
    {
        var environment = new ArcadeEnvironment(ArcadeGame.Breakout, 6000, seed: 1);
        var (first, again) = (new int[6000], new int[6000]);
        environment.ActUniformly(first);
        environment.ActUniformly(again);
        Assert.Equal(first, again);
        for (var action = 0; action < 6; action++)
            Assert.InRange(first.Count(drawn => drawn == action), 1000 - 145, 1000 + 145); // five standard deviations
        environment.Step(first, new float[6000], new bool[6000]);
        environment.ActUniformly(again);
        Assert.NotEqual(first, again);
    }

    [Fact]
    public void After_its_end_a_game_begins_anew()
    {
        var environment = new ArcadeEnvironment(ArcadeGame.Freeway, 1, seed: 1);
        var (rewards, done) = (new float[1], new bool[1]);
        for (var step = 1; step <= 5002; step++)
        {
            environment.Step([0], rewards, done);
            Assert.Equal(step % 2501 == 0, done[0]);
        }
    }

    [Fact]
    public void A_step_allocates_nothing()
    {
        var environment = new ArcadeEnvironment(ArcadeGame.Seaquest, 32, seed: 1);
        var run = new Run(environment);
        run.Step();
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var step = 0; step < 100; step++)
            run.Step();
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_no_game_goes_on()
    {
        var environment = new ArcadeEnvironment(ArcadeGame.Breakout, 2, seed: 1);
        var before = new byte[2 * environment.PackedBytes];
        environment.Observe(before);
        var (rewards, done) = (new float[] { -7, -7 }, new bool[2]);
        Assert.Contains("actions: 1 elements", Refused(() => environment.Step([0], rewards, done)), StringComparison.Ordinal);
        Assert.Contains("rewards: 1 elements", Refused(() => environment.Step([0, 0], rewards.AsSpan(1), done)), StringComparison.Ordinal);
        Assert.Contains("done: 1 elements", Refused(() => environment.Step([0, 0], rewards, done.AsSpan(1))), StringComparison.Ordinal);
        Assert.Contains("actions[1]", Assert.Throws<ArgumentOutOfRangeException>(
            () => environment.Step([0, 6], rewards, done)).Message, StringComparison.Ordinal);
        Assert.Contains("packed", Refused(() => environment.Observe(new byte[99])), StringComparison.Ordinal);
        Assert.Contains("observations", Refused(() => environment.Observe(new float[799])), StringComparison.Ordinal);
        Assert.Contains("actions", Refused(() => environment.ActUniformly(new int[3])), StringComparison.Ordinal);
        var after = new byte[before.Length];
        environment.Observe(after);
        Assert.Equal(before, after);
        Assert.Equal([-7, -7], rewards);
        Assert.Equal(0, environment.Steps);

        Assert.Throws<ArgumentOutOfRangeException>("count", () => new ArcadeEnvironment(ArcadeGame.Breakout, 0, 1));
        Assert.Throws<ArgumentOutOfRangeException>("game", () => new ArcadeEnvironment((ArcadeGame)5, 1, 1));
        foreach (var stickiness in (double[])[-0.1, 1, double.NaN])
        {
            Assert.Throws<ArgumentOutOfRangeException>(
                "stickiness", () => new ArcadeEnvironment(ArcadeGame.Breakout, 1, 1, stickiness));
        }

        static string Refused(Action action) => Assert.Throws<ArgumentException>(action).Message;
    }

    [Fact]
    public void Bits_are_unpacked_row_by_row()
    {
        var values = new float[20];
        ObservationBits.Unpack([0b0000_0101, 0b10, 0xFF, 0b01], 10, values);
        Assert.Equal([1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], values);
        Assert.Equal((1, 1, 2), (ObservationBits.Bytes(1), ObservationBits.Bytes(8), ObservationBits.Bytes(9)));
        var before = values.ToArray();
        Assert.Throws<ArgumentException>(() => ObservationBits.Unpack(new byte[3], 10, values));
        Assert.Throws<ArgumentException>(() => ObservationBits.Unpack(new byte[4], 9, values));
        Assert.Throws<ArgumentOutOfRangeException>(() => ObservationBits.Bytes(0));
        Assert.Equal(before, values);
    }

    private sealed class Run(ArcadeEnvironment environment)
    {
        private readonly int[] _actions = new int[environment.Count];

        public byte[] Packed { get; } = new byte[environment.Count * environment.PackedBytes];

        public float[] Rewards { get; } = new float[environment.Count];

        public bool[] Done { get; } = new bool[environment.Count];

        public void Step()
        {
            environment.ActUniformly(_actions);
            environment.Step(_actions, Rewards, Done);
            environment.Observe(Packed);
        }
    }
}
