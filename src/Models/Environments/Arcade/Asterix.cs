using System.Runtime.CompilerServices;

namespace AuxCore.Models;

/// <summary>Asterix: slot i holds what crosses row i + 1.</summary>
internal sealed class Asterix(int lanes, bool ramping = true) : ArcadeRules(channels: 4)
{
    public const int Slots = 8, FirstSpawnSpeed = 10, FirstMoveSpeed = 5, RampInterval = 100;
    private const int PlayerChannel = 0, EnemyChannel = 1, TrailChannel = 2, GoldChannel = 3;

    public struct Entity
    {
        public sbyte X, Direction; // a direction of 0: the slot is empty
        public bool IsGold;
    }

    [InlineArray(Slots)]
    public struct SlotList
    {
        private Entity _first;
    }

    public struct State
    {
        public int X, Y, SpawnSpeed, SpawnTimer, MoveSpeed, MoveTimer, RampTimer, RampIndex;
        public SlotList Slots;
    }

    public State[] Lanes { get; } = new State[lanes];

    public override void Start(int lane, ref LaneRandom random) => Lanes[lane] = new State
    {
        X = 5, Y = 5,
        SpawnSpeed = FirstSpawnSpeed, SpawnTimer = FirstSpawnSpeed,
        MoveSpeed = FirstMoveSpeed, MoveTimer = FirstMoveSpeed,
        RampTimer = RampInterval,
    };

    public override (int Reward, bool Ends) Step(int lane, int action, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        if (s.SpawnTimer == 0)
        {
            s.SpawnTimer = s.SpawnSpeed;
            Spawn(ref s, ref random);
        }

        (s.X, s.Y) = (MoveX(s.X, action), MoveY(s.Y, action, 1, Slots));
        var (reward, ends) = Meet(ref s);
        if (s.MoveTimer == 0)
        {
            s.MoveTimer = s.MoveSpeed;
            foreach (ref var entity in (Span<Entity>)s.Slots)
            {
                entity.X += entity.Direction;
                if ((uint)entity.X >= Size)
                    entity = default;
            }

            var (more, enemy) = Meet(ref s);
            (reward, ends) = (reward + more, ends || enemy);
        }

        s.SpawnTimer--;
        s.MoveTimer--;
        if (ramping)
            Ramp(ref s);
        return (reward, ends);
    }

    public override void Observe(int lane, Picture picture)
    {
        ref readonly var s = ref Lanes[lane];
        picture.Set(PlayerChannel, s.X, s.Y);
        for (var i = 0; i < Slots; i++)
        {
            var entity = s.Slots[i];
            if (entity.Direction == 0)
                continue;
            picture.Set(entity.IsGold ? GoldChannel : EnemyChannel, entity.X, i + 1);
            picture.SetIfInside(TrailChannel, entity.X - entity.Direction, i + 1);
        }
    }

    private static (int Gold, bool Enemy) Meet(ref State s)
    {
        ref var entity = ref s.Slots[s.Y - 1];
        if (entity.Direction == 0 || entity.X != s.X)
            return default;
        if (!entity.IsGold)
            return (0, true);
        entity = default;
        return (1, false);
    }

    private static void Spawn(ref State s, ref LaneRandom random)
    {
        var direction = random.Sign();
        var isGold = random.Below(3) == 0;
        var empty = 0;
        foreach (var entity in s.Slots)
            empty += entity.Direction == 0 ? 1 : 0;
        if (empty == 0)
            return;
        var chosen = random.Below(empty);
        foreach (ref var entity in (Span<Entity>)s.Slots)
        {
            if (entity.Direction != 0 || chosen-- > 0)
                continue;
            entity = new Entity { X = (sbyte)(direction > 0 ? 0 : LastCell), Direction = (sbyte)direction, IsGold = isGold };
            return;
        }
    }

    private static void Ramp(ref State s)
    {
        if (s.SpawnSpeed <= 1 && s.MoveSpeed <= 1)
            return;
        if (s.RampTimer >= 0)
        {
            s.RampTimer--;
            return;
        }

        if (s.MoveSpeed > 1 && s.RampIndex % 2 == 1)
            s.MoveSpeed--;
        if (s.SpawnSpeed > 1)
            s.SpawnSpeed--;
        s.RampIndex++;
        s.RampTimer = RampInterval;
    }
}
