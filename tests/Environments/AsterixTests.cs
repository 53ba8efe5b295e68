using AuxCore.Models;
using static AuxCore.Tests.Environments.ArcadeLane;

namespace AuxCore.Tests.Environments;

/// <summary>Asterix, rule by rule.</summary>
public class AsterixTests
{
    private readonly Asterix _game = new(1);

    private ref Asterix.State State => ref _game.Lanes[0];

    [Fact]
    public void It_begins_in_the_middle_and_the_first_entity_comes_with_the_eleventh_step()
    {
        _game.Begin();
        Assert.Equal([(5, 5)], _game.Cells(0));
        _game.Play(new int[10]);
        Assert.Equal(0, Occupied());
        _game.Play(None);
        Assert.Equal(1, Occupied());
        Assert.Equal(9, State.SpawnTimer); // of 10, after one step
    }

    [Fact]
    public void The_player_moves_within_rows_1_to_8()
    {
        _game.Begin();
        _game.Play(Left, Up);
        Assert.Equal((4, 4), (State.X, State.Y));
        _game.Play(Right, Right, Down);
        Assert.Equal((6, 5), (State.X, State.Y));
        (State.X, State.Y) = (0, 1);
        _game.Play(Left, Up);
        Assert.Equal((0, 1), (State.X, State.Y));
        _game.Begin();
        (State.X, State.Y) = (9, 8);
        _game.Play(Right, Down);
        Assert.Equal((9, 8), (State.X, State.Y));
    }

    [Fact]
    public void Entities_come_from_either_side_a_third_of_them_gold_in_any_empty_row()
    {
        var (right, gold, rows) = (0, 0, new int[8]);
        var random = new LaneRandom(5, 0);
        for (var i = 0; i < 3000; i++)
        {
            _game.Start(0, ref random);
            (State.SpawnTimer, State.X) = (0, 5);
            State.Slots[2] = new Asterix.Entity { X = 9, Direction = 1 };
            _game.Step(0, None, ref random);
            for (var slot = 0; slot < 8; slot++)
            {
                var entity = State.Slots[slot];
                if (slot == 2 || entity.Direction == 0)
                    continue;
                rows[slot]++;
                Assert.Equal(entity.Direction > 0 ? 0 : 9, entity.X);
                right += entity.Direction > 0 ? 1 : 0;
                gold += entity.IsGold ? 1 : 0;
            }
        }

        Assert.Equal(3000, rows.Sum());
        Assert.Equal(0, rows[2]);
        Assert.All(rows.Where((_, slot) => slot != 2), count => Assert.InRange(count, 428 - 96, 428 + 96)); // five standard deviations
        Assert.InRange(right, 1500 - 137, 1500 + 137);
        Assert.InRange(gold, 1000 - 130, 1000 + 130);
    }

    [Fact]
    public void Nothing_comes_where_all_rows_are_taken()
    {
        _game.Begin();
        for (var slot = 0; slot < 8; slot++)
            State.Slots[slot] = new Asterix.Entity { X = 2, Direction = 1 };
        State.SpawnTimer = 0;
        _game.Play(None);
        Assert.Equal(9, State.SpawnTimer);
        Assert.All(State.Slots[..].ToArray(), entity => Assert.Equal(2, entity.X));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Gold_counts_and_goes_and_an_enemy_ends_the_game(bool gold)
    {
        foreach (var moves in (bool[])[false, true]) // the player comes to it, or it to the player
        {
            _game.Begin();
            State.Slots[4] = new Asterix.Entity { X = 4, Direction = 1, IsGold = gold };
            State.MoveTimer = moves ? 0 : 3;
            var (reward, ends) = _game.Play(moves ? None : Left);
            Assert.Equal((gold ? 1 : 0, !gold), (reward, ends));
            if (gold)
                Assert.Equal(0, Occupied());
        }

        _game.Begin();
        State.Slots[4] = new Asterix.Entity { X = 4, Direction = 1, IsGold = gold };
        State.MoveTimer = 3;
        Assert.Equal((0, false), _game.Play(None));
    }

    [Fact]
    public void All_move_together_every_six_steps_and_leave_the_grid()
    {
        _game.Begin();
        State.SpawnTimer = 100;
        State.Slots[0] = new Asterix.Entity { X = 0, Direction = 1 };
        State.Slots[1] = new Asterix.Entity { X = 9, Direction = 1 };
        State.Slots[2] = new Asterix.Entity { X = 1, Direction = -1, IsGold = true };
        Assert.Equal([(0, 3), (2, 3), (8, 2)], Pairs(_game.Cells(2).Concat(_game.Cells(3).Select(c => (c.X - 1, c.Y)))));
        _game.Play(new int[5]);
        Assert.Equal((0, 0), (State.Slots[0].X, State.MoveTimer));
        _game.Play(None);
        Assert.Equal((1, 4), (State.Slots[0].X, State.MoveTimer)); // set to 5, then counted down
        Assert.Equal(0, State.Slots[1].Direction);
        Assert.Equal(0, State.Slots[2].X);
        Assert.Equal([(0, 3)], _game.Cells(3));
        Assert.Equal([(1, 1)], _game.Cells(1));
        Assert.Equal([(0, 1), (1, 3)], Pairs(_game.Cells(2)));

        static (int, int)[] Pairs(IEnumerable<(int X, int Y)> cells) => [.. cells.Order()];
    }

    [Fact]
    public void It_becomes_faster_until_both_speeds_are_1()
    {
        _game.Begin();
        List<(int Step, int Spawn, int Move)> changes = [];
        var random = new LaneRandom(1, 0);
        for (var step = 1; step <= 2000; step++)
        {
            var before = (State.SpawnSpeed, State.MoveSpeed);
            for (var slot = 0; slot < 8; slot++)
                State.Slots[slot] = default; // nothing to die of
            _game.Step(0, None, ref random);
            if ((State.SpawnSpeed, State.MoveSpeed) != before)
                changes.Add((step, State.SpawnSpeed, State.MoveSpeed));
        }

        Assert.Equal([(102, 9, 5), (204, 8, 4), (306, 7, 4), (408, 6, 3)], changes[..4]);
        Assert.Equal((918, 1, 1), changes[^1]);

        var calm = new Asterix(1, ramping: false);
        calm.Begin();
        calm.Lanes[0].SpawnTimer = int.MaxValue;
        calm.Play(new int[150]);
        Assert.Equal((10, 5), (calm.Lanes[0].SpawnSpeed, calm.Lanes[0].MoveSpeed));
    }

    private int Occupied() => State.Slots[..].ToArray().Count(entity => entity.Direction != 0);
}
