using AuxCore.Models;
using static AuxCore.Tests.Environments.ArcadeLane;

namespace AuxCore.Tests.Environments;

/// <summary>Seaquest, rule by rule.</summary>
public class SeaquestTests
{
    private const int Front = 0, Back = 1, Bullet = 2, Trail = 3, EnemyBullet = 4, FishChannel = 5, SubmarineChannel = 6, Oxygen = 7,
        Aboard = 8, Diver = 9;

    private readonly Seaquest _game = new(1);

    private ref Seaquest.State State => ref _game.Lanes[0];

    [Fact]
    public void The_submarine_begins_at_the_surface_looking_left_with_full_oxygen()
    {
        _game.Begin();
        Assert.Equal([(5, 0)], _game.Cells(Front));
        Assert.Equal([(6, 0)], _game.Cells(Back));
        Assert.Equal(10, _game.Cells(Oxygen).Length);
        Assert.All(_game.Cells(Oxygen), cell => Assert.Equal(9, cell.Y));
        Assert.Empty(_game.Cells(Aboard));
        Assert.Equal((0, false), _game.Play(None)); // at the surface already: no end
    }

    [Fact]
    public void It_moves_turns_and_stays_within_rows_0_to_8()
    {
        Dive(5, 4);
        _game.Play(Right);
        Assert.Equal((6, 4), (State.X, State.Y));
        Assert.Equal([(5, 4)], _game.Cells(Back));
        _game.Play(Up);
        Assert.Equal((6, 3), (State.X, State.Y));
        Assert.Equal([(5, 3)], _game.Cells(Back)); // still looking right
        _game.Play(Left, Down);
        Assert.Equal((5, 4), (State.X, State.Y));
        Assert.Equal([(6, 4)], _game.Cells(Back));
        Dive(0, 8);
        _game.Play(Left, Down);
        Assert.Equal((0, 8), (State.X, State.Y));
        State.X = 9;
        _game.Play(Right, Down);
        Assert.Equal((9, 8), (State.X, State.Y));
        State.Facing = -1;
        Assert.Empty(_game.Cells(Back)); // off the grid
    }

    [Fact]
    public void A_bullet_flies_the_way_the_submarine_looks_and_the_next_one_has_to_wait()
    {
        Dive(5, 4);
        _game.Play(Fire);
        Assert.Equal([(4, 4)], _game.Cells(Bullet));
        _game.Play(Fire, Fire, Fire, Fire);
        Assert.Equal([(0, 4)], _game.Cells(Bullet));
        _game.Play(Fire);
        Assert.Equal([(4, 4)], _game.Cells(Bullet)); // the first left the grid
        State.Facing = 1;
        _game.Play(None, None, None, None);
        Assert.Equal([(0, 4)], _game.Cells(Bullet)); // it keeps its direction
    }

    [Fact]
    public void A_bullet_takes_a_fish_before_a_submarine_and_both_go()
    {
        Dive(5, 4);
        State.Fish.Add(Swimmer(4, 4, 1));
        State.Submarines.Add(Swimmer(4, 4, 1));
        Assert.Equal((1, false), _game.Play(Fire));
        Assert.Empty(_game.Cells(FishChannel));
        Assert.Equal([(4, 4)], _game.Cells(SubmarineChannel));
        Assert.Empty(_game.Cells(Bullet));
        State.ShotTimer = 0;
        Assert.Equal((1, false), _game.Play(Fire));
        Assert.Empty(_game.Cells(SubmarineChannel));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_enemy_that_swims_into_a_bullet_dies(bool fish)
    {
        Dive(5, 4);
        Add(fish, Swimmer(2, 4, 1, timer: 0));
        State.Bullets.Add(new Mover { X = 4, Y = 4, Direction = -1 }); // both come to (3, 4)
        Assert.Equal((1, false), _game.Play(None));
        Assert.Empty(_game.Cells(fish ? FishChannel : SubmarineChannel));
        Assert.Empty(_game.Cells(Bullet));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Touching_an_enemy_ends_the_game_whoever_came(bool fish)
    {
        Dive(5, 4);
        Add(fish, Swimmer(4, 4, 1));
        Assert.Equal((0, true), _game.Play(Left));
        Dive(5, 4);
        Add(fish, Swimmer(4, 4, 1, timer: 0));
        Assert.Equal((0, true), _game.Play(None));
        Dive(5, 4);
        Add(fish, Swimmer(6, 4, 1)); // on the back: no contact
        Assert.Equal((0, false), _game.Play(None));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Enemies_move_when_their_timer_is_over_and_leave_the_grid(bool fish)
    {
        Dive(5, 4);
        State.MoveSpeed = 3;
        Add(fish, Swimmer(8, 2, 1, timer: 1));
        var channel = fish ? FishChannel : SubmarineChannel;
        _game.Play(None);
        Assert.Equal([(8, 2)], _game.Cells(channel));
        Assert.Equal([(7, 2)], _game.Cells(Trail));
        _game.Play(None);
        Assert.Equal([(9, 2)], _game.Cells(channel));
        _game.Play(None, None, None);
        Assert.Equal([(9, 2)], _game.Cells(channel));
        _game.Play(None);
        Assert.Empty(_game.Cells(channel));
    }

    [Fact]
    public void Submarines_shoot_every_eleventh_step_and_fish_do_not()
    {
        Dive(5, 4);
        State.Fish.Add(Swimmer(0, 1, 1));
        State.Submarines.Add(Swimmer(0, 2, 1));
        _game.Play(new int[10]);
        Assert.Empty(_game.Cells(EnemyBullet));
        _game.Play(None);
        Assert.Equal([(1, 2)], _game.Cells(EnemyBullet)); // it flies in the same step
        _game.Play(None);
        Assert.Equal([(2, 2)], _game.Cells(EnemyBullet));
        _game.Play(new int[9]);
        Assert.Empty(_game.Cells(EnemyBullet)); // off the grid
        _game.Play(None);
        Assert.Equal([(1, 2)], _game.Cells(EnemyBullet));
    }

    [Fact]
    public void An_enemy_bullet_ends_the_game_before_and_after_it_flies()
    {
        Dive(5, 4);
        State.EnemyBullets.Add(new Mover { X = 4, Y = 4, Direction = 1 });
        Assert.Equal((0, true), _game.Play(None));
        Dive(5, 4);
        State.EnemyBullets.Add(new Mover { X = 4, Y = 4, Direction = -1 });
        Assert.Equal((0, true), _game.Play(Left));
        Dive(5, 4);
        State.EnemyBullets.Add(new Mover { X = 4, Y = 5, Direction = 1 });
        Assert.Equal((0, false), _game.Play(None));
    }

    [Fact]
    public void Divers_are_picked_up_by_whoever_comes_as_long_as_there_is_room()
    {
        Dive(5, 4);
        State.Divers.Add(Swimmer(4, 4, 1));
        _game.Play(Left);
        Assert.Equal(1, State.Aboard);
        Assert.Equal([(8, 9)], _game.Cells(Aboard));
        State.Divers.Add(Swimmer(3, 4, 1, timer: 0));
        _game.Play(None);
        Assert.Equal(2, State.Aboard);
        Assert.Equal([(7, 9), (8, 9)], _game.Cells(Aboard));
        Assert.Empty(_game.Cells(Diver));
        State.Aboard = 6;
        State.Divers.Add(Swimmer(4, 4, 1));
        _game.Play(None);
        Assert.Equal(6, State.Aboard);
        Assert.Equal([(4, 4)], _game.Cells(Diver));
    }

    [Fact]
    public void Divers_move_every_six_steps_and_leave_the_grid()
    {
        Dive(5, 4);
        State.Divers.Add(Swimmer(8, 2, 1, timer: 5));
        _game.Play(new int[5]);
        Assert.Equal([(8, 2)], _game.Cells(Diver));
        _game.Play(None);
        Assert.Equal([(9, 2)], _game.Cells(Diver));
        Assert.Equal([(8, 2)], _game.Cells(Trail));
        _game.Play(new int[6]);
        Assert.Empty(_game.Cells(Diver));
    }

    [Fact]
    public void Enemies_come_at_random_but_not_towards_others_in_their_row()
    {
        var (rows, right, submarines, all) = (new int[10], 0, 0, 0);
        var random = new LaneRandom(5, 0);
        for (var i = 0; i < 4000; i++)
        {
            _game.Start(0, ref random);
            (State.SpawnTimer, State.DiverTimer) = (0, 99);
            State.Fish.Add(Swimmer(4, 3, 1));
            State.Submarines.Add(Swimmer(4, 6, -1));
            _game.Step(0, None, ref random);
            Assert.Equal(19, State.SpawnTimer); // 20, after one step, whether something came or not
            var comers = Movers(ref State.Fish).Skip(1).Select(mover => (mover, false))
                .Concat(Movers(ref State.Submarines).Skip(1).Select(mover => (mover, true)));
            foreach (var (mover, isSubmarine) in comers)
            {
                Assert.Equal(mover.Direction > 0 ? 0 : 9, mover.X);
                Assert.False(mover is { Y: 3, Direction: -1 } or { Y: 6, Direction: 1 });
                rows[mover.Y]++;
                right += mover.Direction > 0 ? 1 : 0;
                submarines += isSubmarine ? 1 : 0;
                all++;
            }
        }

        Assert.Equal((0, 0), (rows[0], rows[9]));
        Assert.All(rows.Where((_, y) => y is not (0 or 3 or 6 or 9)), count => Assert.InRange(count, 500 - 105, 500 + 105));
        Assert.InRange(rows[3] + rows[6], 500 - 105, 500 + 105); // half of each
        Assert.InRange(right, all / 2 - 160, all / 2 + 160);
        Assert.InRange(submarines, all / 3 - 150, all / 3 + 150);
    }

    [Fact]
    public void A_diver_comes_every_30_steps()
    {
        _game.Begin();
        State.SpawnTimer = 1000;
        _game.Play(new int[30]);
        Assert.Empty(_game.Cells(Diver));
        _game.Play(None);
        var diver = Assert.Single(_game.Cells(Diver));
        Assert.InRange(diver.Y, 1, 8);
        Assert.Equal(29, State.DiverTimer); // 30, after one step
    }

    [Fact]
    public void Below_the_surface_oxygen_runs_out_and_ends_the_game()
    {
        Dive(5, 4);
        _game.Play(None);
        Assert.Equal(199, State.Oxygen);
        Assert.Equal(9, _game.Cells(Oxygen).Length);
        State.Oxygen = 1;
        Assert.Equal((0, false), _game.Play(None));
        Assert.Equal((0, true), _game.Play(None));
        _game.Begin();
        _game.Play(None, None);
        Assert.Equal(200, State.Oxygen); // at the surface it does not
    }

    [Theory]
    [InlineData(0, 100, 0, true, 0, 100)]
    [InlineData(1, 100, 0, false, 0, 200)]
    [InlineData(5, 100, 0, false, 4, 200)]
    [InlineData(6, 100, 5, false, -1, 200)]
    [InlineData(6, 199, 9, false, -1, 200)]
    public void Coming_up_costs_a_diver_and_six_are_worth_the_air_that_is_left(
        int divers, int oxygen, int reward, bool ends, int left, int oxygenAfter)
    {
        Dive(5, 1);
        (State.Aboard, State.Oxygen) = (divers, oxygen);
        Assert.Equal((reward, ends), _game.Play(Up));
        Assert.Equal((left, oxygenAfter), (State.Aboard, State.Oxygen));
    }

    [Fact]
    public void Coming_up_makes_the_game_harder()
    {
        List<(int Spawn, int Move)> speeds = [];
        Dive(5, 1);
        for (var i = 0; i < 25; i++)
        {
            (State.Y, State.AtSurface, State.Aboard) = (1, false, 3);
            _game.Play(Up);
            speeds.Add((State.SpawnSpeed, State.MoveSpeed));
        }

        Assert.Equal([(19, 5), (18, 4), (17, 4), (16, 3), (15, 3), (14, 2), (13, 2)], speeds[..7]);
        Assert.Equal((1, 2), speeds[^1]);

        var calm = new Seaquest(1, ramping: false);
        calm.Begin();
        (calm.Lanes[0].Y, calm.Lanes[0].AtSurface, calm.Lanes[0].Aboard) = (1, false, 3);
        calm.Play(Up);
        Assert.Equal((20, 5), (calm.Lanes[0].SpawnSpeed, calm.Lanes[0].MoveSpeed));
    }

    private void Dive(int x, int y)
    {
        _game.Begin();
        (State.X, State.Y, State.AtSurface, State.SpawnTimer, State.DiverTimer) = (x, y, false, 1000, 1000);
    }

    private void Add(bool fish, Mover mover)
    {
        if (fish)
            State.Fish.Add(mover);
        else
            State.Submarines.Add(mover);
    }

    private static Mover Swimmer(int x, int y, int direction, int timer = 100) =>
        new() { X = (sbyte)x, Y = (sbyte)y, Direction = (sbyte)direction, Timer = (sbyte)timer, ShotTimer = 10 };

    private static List<Mover> Movers(ref MoverList list)
    {
        List<Mover> movers = [];
        for (var i = 0; i < list.Count; i++)
            movers.Add(list[i]);
        return movers;
    }
}
