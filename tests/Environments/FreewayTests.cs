using AuxCore.Models;
using static AuxCore.Tests.Environments.ArcadeLane;

namespace AuxCore.Tests.Environments;

/// <summary>Freeway, rule by rule.</summary>
public class FreewayTests
{
    private readonly Freeway _game = new(1);

    private ref Freeway.State State => ref _game.Lanes[0];

    [Fact]
    public void Cars_begin_at_the_left_with_speeds_from_1_to_5_either_way()
    {
        var speeds = new int[6];
        var right = 0;
        var random = new LaneRandom(3, 0);
        for (var i = 0; i < 500; i++)
        {
            _game.Start(0, ref random);
            Assert.Equal((9, 3, 2500), (State.Row, State.MoveTimer, State.StepsLeft));
            foreach (var car in State.Cars)
            {
                Assert.Equal((0, car.Speed), (car.X, car.Timer));
                speeds[car.Speed]++;
                right += car.Direction > 0 ? 1 : 0;
            }
        }

        Assert.Equal(0, speeds[0]);
        Assert.All(speeds[1..], count => Assert.InRange(count, 800 - 130, 800 + 130)); // five standard deviations
        Assert.InRange(right, 2000 - 160, 2000 + 160);
        Assert.Equal([(4, 9)], _game.Cells(0));
        Assert.Equal([.. Enumerable.Range(1, 8).Select(y => (0, y))], _game.Cells(1));
    }

    [Fact]
    public void The_chicken_rests_after_each_move()
    {
        Stand(5, timer: 0);
        _game.Play(Up);
        Assert.Equal(4, State.Row);
        _game.Play(Up, Down);
        Assert.Equal(4, State.Row);
        _game.Play(Up); // 3, 2, 1, 0
        Assert.Equal(3, State.Row);

        Stand(5, timer: 0);
        _game.Play(Left, Right, Fire, None);
        Assert.Equal((5, 0), (State.Row, State.MoveTimer));
        _game.Play(Down);
        Assert.Equal(6, State.Row);
        Stand(9, timer: 0);
        _game.Play(Down);
        Assert.Equal(9, State.Row);
        Stand(9, timer: 3);
        _game.Play(Up, Up, Up);
        Assert.Equal(9, State.Row);
        _game.Play(Up);
        Assert.Equal(8, State.Row);
    }

    [Fact]
    public void The_other_side_counts_and_draws_new_speeds_for_cars_where_they_are()
    {
        Stand(1, timer: 0);
        for (var i = 0; i < 8; i++)
            State.Cars[i].X = 7;
        var random = new LaneRandom(3, 0);
        Assert.Equal((1, false), _game.Step(0, Up, ref random));
        Assert.Equal(9, State.Row);
        Assert.Contains(State.Cars[..].ToArray(), car => car.Speed != 5); // Stand gives 5 to all
        Assert.All(State.Cars[..].ToArray(), car => Assert.InRange(car.X, 6, 8));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(-1)]
    public void A_car_moves_when_its_timer_is_over_and_wraps_around(int direction)
    {
        Stand(9, timer: 0);
        ref var car = ref State.Cars[2];
        (car.X, car.Direction, car.Speed, car.Timer) = ((sbyte)(direction > 0 ? 9 : 0), (sbyte)direction, 2, 1);
        _game.Play(None);
        Assert.Equal((direction > 0 ? 9 : 0, 0), (car.X, car.Timer));
        _game.Play(None);
        Assert.Equal((direction > 0 ? 0 : 9, 2), (car.X, car.Timer));
        Assert.Equal([(direction > 0 ? 9 : 0, 3)], _game.Cells(3)); // the cell behind, in the channel of speed 2
        _game.Play(None, None);
        Assert.Equal(direction > 0 ? 0 : 9, car.X);
        _game.Play(None);
        Assert.Equal(direction > 0 ? 1 : 8, car.X);
    }

    [Fact]
    public void A_car_on_the_chicken_sends_it_back_before_and_after_it_moves()
    {
        Stand(3, timer: 9);
        (State.Cars[2].X, State.Cars[2].Timer) = (4, 5);
        _game.Play(None);
        Assert.Equal(9, State.Row);

        Stand(3, timer: 9);
        (State.Cars[2].X, State.Cars[2].Timer, State.Cars[2].Direction) = (3, 0, 1);
        _game.Play(None);
        Assert.Equal(9, State.Row);

        Stand(3, timer: 9);
        (State.Cars[3].X, State.Cars[3].Timer) = (4, 5); // another row
        _game.Play(None);
        Assert.Equal(3, State.Row);
    }

    [Fact]
    public void A_game_has_2501_steps()
    {
        _game.Begin();
        Assert.Equal((0, false), _game.Play(new int[2500]));
        Assert.Equal((0, true), _game.Play(None));
    }

    private void Stand(int row, int timer)
    {
        _game.Begin();
        (State.Row, State.MoveTimer) = (row, timer);
        foreach (ref var car in (Span<Freeway.Car>)State.Cars)
            (car.Speed, car.Timer, car.Direction) = (5, 5, 1);
    }
}
