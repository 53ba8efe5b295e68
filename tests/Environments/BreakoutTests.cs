using AuxCore.Models;
using static AuxCore.Tests.Environments.ArcadeLane;

namespace AuxCore.Tests.Environments;

/// <summary>Breakout, rule by rule.</summary>
public class BreakoutTests
{
    private readonly Breakout _game = new(1);

    private ref Breakout.State State => ref _game.Lanes[0];

    [Fact]
    public void The_ball_begins_at_either_edge_of_row_3_and_moves_inwards_and_down()
    {
        var starts = new int[10];
        var random = new LaneRandom(7, 0);
        for (var i = 0; i < 1000; i++)
        {
            _game.Start(0, ref random);
            Assert.Equal((3, 4, 1), (State.BallY, State.Paddle, State.DirectionY));
            Assert.Equal(State.BallX == 0 ? 1 : -1, State.DirectionX);
            starts[State.BallX]++;
        }

        Assert.Equal(1000, starts[0] + starts[9]);
        Assert.InRange(starts[0], 420, 580); // five standard deviations
        Assert.Equal([(4, 9)], _game.Cells(0));
        Assert.Equal(_game.Cells(1), _game.Cells(2)); // no cell before
        Assert.Equal(30, _game.Cells(3).Length);
        Assert.All(_game.Cells(3), cell => Assert.InRange(cell.Y, 1, 3));
    }

    [Fact]
    public void The_paddle_moves_and_stays_on_the_grid()
    {
        Place(5, 5, 1, -1);
        _game.Play(Left);
        Assert.Equal(3, State.Paddle);
        State.Paddle = 9;
        _game.Play(Right);
        Assert.Equal(9, State.Paddle);
        State.Paddle = 0;
        _game.Play(Left);
        Assert.Equal(0, State.Paddle);
        foreach (var action in (int[])[None, Up, Down, Fire])
        {
            Place(5, 5, 1, 1);
            _game.Play(action);
            Assert.Equal(4, State.Paddle);
        }
    }

    [Fact]
    public void The_ball_moves_diagonally_and_leaves_a_trail()
    {
        Place(4, 5, -1, 1);
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal([(3, 6)], _game.Cells(1));
        Assert.Equal([(4, 5)], _game.Cells(2));
    }

    [Fact]
    public void Walls_and_ceiling_reflect_it()
    {
        Place(9, 5, 1, 1);
        _game.Play(None);
        Assert.Equal((9, 6, -1, 1), (State.BallX, State.BallY, State.DirectionX, State.DirectionY));
        Place(0, 5, -1, 1);
        _game.Play(None);
        Assert.Equal((0, 6, 1), (State.BallX, State.BallY, State.DirectionX));
        Place(4, 0, 1, -1);
        _game.Play(None);
        Assert.Equal((5, 0, 1), (State.BallX, State.BallY, State.DirectionY));
    }

    [Fact]
    public void A_brick_counts_disappears_and_sends_the_ball_back()
    {
        Place(4, 4, 1, -1);
        Assert.Equal((1, false), _game.Play(None));
        Assert.Equal((5, 4, 1), (State.BallX, State.BallY, State.DirectionY));
        Assert.False(State.Bricks.Has(5, 3));
        Assert.Equal(29, State.Bricks.Count());
    }

    [Fact]
    public void Right_after_a_brick_the_next_one_is_passed_through()
    {
        Place(4, 4, 1, -1);
        State.Striking = true;
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal((5, 3, -1), (State.BallX, State.BallY, State.DirectionY));
        Assert.Equal(30, State.Bricks.Count());
        Assert.True(State.Striking); // as long as its cells are bricks

        _game.Play(None, None); // through row 2 and row 1
        Assert.Equal((0, false), _game.Play(None)); // row 0: no brick
        Assert.False(State.Striking);
        Assert.Equal(30, State.Bricks.Count());
    }

    [Fact]
    public void The_paddle_sends_the_ball_back_by_where_it_was_and_by_where_it_comes()
    {
        Place(4, 8, 1, 1);
        State.Paddle = 4;
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal((5, 8, 1, -1), (State.BallX, State.BallY, State.DirectionX, State.DirectionY));

        Place(4, 8, 1, 1);
        State.Paddle = 5;
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal((5, 8, -1, -1), (State.BallX, State.BallY, State.DirectionX, State.DirectionY));

        Place(4, 8, 1, 1);
        State.Paddle = 3; // moved first, so that it is in time
        Assert.Equal((0, false), _game.Play(Right));

        Place(4, 8, 1, 1);
        State.Paddle = 6;
        Assert.Equal((0, true), _game.Play(None));
    }

    [Fact]
    public void A_cleared_wall_is_built_anew_when_the_ball_comes_down()
    {
        Place(4, 7, 1, 1);
        State.Bricks = default;
        State.Paddle = 6;
        _game.Play(None);
        Assert.Equal(0, State.Bricks.Count());
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal(30, State.Bricks.Count());
    }

    [Fact]
    public void As_long_as_a_brick_is_left_the_wall_stays_as_it_is()
    {
        Place(4, 7, 1, 1);
        State.Bricks = default;
        State.Bricks.Add(9, 1);
        State.Paddle = 6;
        _game.Play(None, None);
        Assert.Equal((-1, 1), (State.DirectionY, State.Bricks.Count()));
    }

    private void Place(int x, int y, int directionX, int directionY)
    {
        _game.Begin();
        (State.BallX, State.BallY, State.DirectionX, State.DirectionY) = (x, y, directionX, directionY);
    }
}
