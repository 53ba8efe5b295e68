using AuxCore.Models;
using static AuxCore.Tests.Environments.ArcadeLane;

namespace AuxCore.Tests.Environments;

/// <summary>Space Invaders, rule by rule.</summary>
public class SpaceInvadersTests
{
    private readonly SpaceInvaders _game = new(1);

    private ref SpaceInvaders.State State => ref _game.Lanes[0];

    [Fact]
    public void A_wave_of_24_begins_on_its_way_to_the_left()
    {
        _game.Begin();
        Assert.Equal([(5, 9)], _game.Cells(0));
        var wave = _game.Cells(1);
        Assert.Equal(24, wave.Length);
        Assert.All(wave, cell => Assert.True(cell is { X: >= 2 and <= 7, Y: <= 3 }));
        Assert.Equal(wave, _game.Cells(2));
        Assert.Empty(_game.Cells(3));
        State.Direction = 1;
        Assert.Equal(wave, _game.Cells(3));
        Assert.Empty(_game.Cells(2));
    }

    [Fact]
    public void The_cannon_moves_and_stays_on_the_grid()
    {
        _game.Begin();
        _game.Play(Left);
        Assert.Equal(4, State.Cannon);
        _game.Play(Right, Up, Down, Fire);
        Assert.Equal(5, State.Cannon);
        State.Cannon = 0;
        _game.Play(Left);
        Assert.Equal(0, State.Cannon);
        State.Cannon = 9;
        _game.Play(Right);
        Assert.Equal(9, State.Cannon);
    }

    [Fact]
    public void A_bullet_rises_a_row_a_step_and_the_next_one_has_to_wait()
    {
        Alone(9, 0);
        _game.Play(Fire);
        Assert.Equal([(5, 8)], _game.Cells(4)); // placed on row 9 before bullets move
        _game.Play(Fire, Fire, Fire, Fire);
        Assert.Equal([(5, 4)], _game.Cells(4));
        _game.Play(Fire);
        Assert.Equal([(5, 3), (5, 8)], _game.Cells(4));
        _game.Play(None, None, None, None);
        Assert.Equal([(5, 4)], _game.Cells(4)); // the first left at the top
    }

    [Fact]
    public void A_bullet_kills_an_alien_for_1_and_is_spent()
    {
        Alone(5, 6);
        State.Aliens.Add(9, 0);
        Assert.Equal((0, false), _game.Play(Fire, None));
        Assert.Equal((1, false), _game.Play(None));
        Assert.Equal([(9, 0)], _game.Cells(1));
        Assert.Empty(_game.Cells(4));
    }

    [Fact]
    public void An_enemy_bullet_falls_and_ends_the_game_on_the_cannon_only()
    {
        Alone(9, 0);
        State.EnemyBullets.Add(5, 7);
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal([(5, 8)], _game.Cells(5));
        Assert.Equal((0, true), _game.Play(None));

        Alone(9, 0);
        State.EnemyBullets.Add(5, 8);
        Assert.Equal((0, false), _game.Play(Left)); // the cannon moves first
        _game.Play(None);
        Assert.Empty(_game.Cells(5));
    }

    [Fact]
    public void The_wave_moves_every_interval_or_as_often_as_it_has_aliens()
    {
        _game.Begin();
        _game.Play(new int[12]);
        Assert.Equal(2, _game.Cells(1).Min(cell => cell.X));
        _game.Play(None);
        Assert.Equal(1, _game.Cells(1).Min(cell => cell.X));
        Assert.Equal(11, State.AlienTimer); // 12, after one step

        Alone(5, 3, timer: 0);
        _game.Play(None);
        Assert.Equal([(4, 3)], _game.Cells(1));
        Assert.Equal(0, State.AlienTimer); // one alien: every step
        _game.Play(None);
        Assert.Equal([(3, 3)], _game.Cells(1));
    }

    [Theory]
    [InlineData(-1, 0)]
    [InlineData(1, 9)]
    public void At_the_wall_that_it_moves_to_the_wave_turns_and_comes_down(int direction, int x)
    {
        Alone(x, 3, timer: 0);
        State.Aliens.Add(5, 2);
        State.Direction = direction;
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal(-direction, State.Direction);
        Assert.Equal([(5, 3), (x, 4)], _game.Cells(1));

        Alone(9 - x, 3, timer: 0); // at the other wall nothing happens
        State.Direction = direction;
        _game.Play(None);
        Assert.Equal([(9 - x + direction, 3)], _game.Cells(1));
    }

    [Fact]
    public void A_wave_that_should_come_down_from_the_last_row_ends_the_game()
    {
        Alone(0, 9, timer: 0);
        Assert.Equal((0, true), _game.Play(None));
        Alone(0, 8, timer: 0);
        Assert.Equal((0, false), _game.Play(None));
    }

    [Fact]
    public void An_alien_on_the_cannon_ends_the_game_whoever_came()
    {
        Alone(4, 9, timer: 5);
        Assert.Equal((0, true), _game.Play(Left));
        Alone(6, 9, timer: 0); // it moves to the left
        Assert.Equal((0, true), _game.Play(None));
        Alone(4, 9, timer: 5);
        Assert.Equal((0, false), _game.Play(None));
    }

    [Fact]
    public void Every_ten_steps_the_lowest_alien_of_the_nearest_column_shoots()
    {
        Alone(7, 1);
        State.Aliens.Add(7, 2);
        State.Aliens.Add(2, 3);
        State.EnemyShotTimer = 0;
        _game.Play(None);
        Assert.Equal([(7, 2)], _game.Cells(5));
        Assert.Equal(9, State.EnemyShotTimer); // 10, after one step

        Alone(3, 1); // a tie: the lower column
        State.Aliens.Add(7, 1);
        State.EnemyShotTimer = 0;
        _game.Play(None);
        Assert.Equal([(3, 1)], _game.Cells(5));
    }

    [Fact]
    public void An_empty_wave_is_followed_by_a_faster_one_down_to_an_interval_of_6()
    {
        Alone(5, 6);
        State.Direction = 1;
        Assert.Equal((1, false), _game.Play(Fire, None, None));
        Assert.Equal((24, 11, 1), (_game.Cells(1).Length, State.Interval, State.Direction));
        Assert.All(_game.Cells(1), cell => Assert.True(cell is { X: >= 2 and <= 7, Y: <= 3 }));

        Alone(5, 6);
        State.Interval = 6;
        _game.Play(Fire, None, None);
        Assert.Equal(6, State.Interval);
    }

    private void Alone(int x, int y, int timer = 1000)
    {
        _game.Begin();
        State.Aliens = default;
        State.Aliens.Add(x, y);
        (State.AlienTimer, State.EnemyShotTimer) = (timer, 1000);
    }
}
