namespace AuxCore.Models;

/// <summary>Seaquest: row 0 is the surface, row 9 shows oxygen and divers.</summary>
internal sealed class Seaquest(int lanes, bool ramping = true) : ArcadeRules(channels: 10)
{
    public const int FullOxygen = 200, MostDivers = 6, ShotRest = 5, EnemyShotRest = 10, DiverRest = 5;
    public const int FirstSpawnSpeed = 20, FirstMoveSpeed = 5, FastestMoveSpeed = 2, DiverInterval = 30;
    private const int Surface = 0, FirstRow = 1, LastRow = 8, BarRow = 9;
    private const int FrontChannel = 0, BackChannel = 1, BulletChannel = 2, TrailChannel = 3, EnemyBulletChannel = 4, FishChannel = 5,
        SubmarineChannel = 6, OxygenChannel = 7, AboardChannel = 8, DiverChannel = 9;

    public struct State
    {
        public int X, Y, Facing, Oxygen, Aboard, ShotTimer, SpawnSpeed, SpawnTimer, DiverTimer, MoveSpeed, RampIndex;
        public bool AtSurface;
        public MoverList Bullets, EnemyBullets, Fish, Submarines, Divers;
    }

    public State[] Lanes { get; } = new State[lanes];

    public override void Start(int lane, ref LaneRandom random) => Lanes[lane] = new State
    {
        X = 5, Y = Surface, Facing = -1, Oxygen = FullOxygen, AtSurface = true,
        SpawnSpeed = FirstSpawnSpeed, SpawnTimer = FirstSpawnSpeed, DiverTimer = DiverInterval, MoveSpeed = FirstMoveSpeed,
    };

    public override (int Reward, bool Ends) Step(int lane, int action, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        Spawn(ref s, ref random);
        Act(ref s, action);
        var reward = MoveBullets(ref s);
        MoveDivers(ref s);
        var (more, ends) = MoveEnemies(ref s, ref s.Submarines, shoot: true);
        reward += more;
        ends |= MoveEnemyBullets(ref s);
        (more, var met) = MoveEnemies(ref s, ref s.Fish, shoot: false);
        (reward, ends) = (reward + more, ends | met);

        s.SpawnTimer = Math.Max(0, s.SpawnTimer - 1);
        s.DiverTimer = Math.Max(0, s.DiverTimer - 1);
        s.ShotTimer = Math.Max(0, s.ShotTimer - 1);
        ends |= s.Oxygen <= 0;
        if (s.Y > Surface)
        {
            s.Oxygen--;
            s.AtSurface = false;
        }
        else if (!s.AtSurface)
        {
            if (s.Aboard == 0)
                ends = true;
            else
                reward += Emerge(ref s);
        }

        return (reward, ends);
    }

    public override void Observe(int lane, Picture picture)
    {
        ref var s = ref Lanes[lane];
        picture.Set(FrontChannel, s.X, s.Y);
        picture.SetIfInside(BackChannel, s.X - s.Facing, s.Y);
        Show(ref s.Bullets, BulletChannel, trail: false, picture);
        Show(ref s.EnemyBullets, EnemyBulletChannel, trail: false, picture);
        Show(ref s.Fish, FishChannel, trail: true, picture);
        Show(ref s.Submarines, SubmarineChannel, trail: true, picture);
        Show(ref s.Divers, DiverChannel, trail: true, picture);
        for (var x = 0; x < Bars(s.Oxygen); x++)
            picture.Set(OxygenChannel, x, BarRow);
        for (var x = LastCell - s.Aboard; x < LastCell; x++)
            picture.Set(AboardChannel, x, BarRow);
    }

    private static void Show(ref MoverList list, int channel, bool trail, Picture picture)
    {
        for (var i = 0; i < list.Count; i++)
        {
            ref var mover = ref list[i];
            picture.Set(channel, mover.X, mover.Y);
            if (trail)
                picture.SetIfInside(TrailChannel, mover.X - mover.Direction, mover.Y);
        }
    }

    private static int Bars(int oxygen) => Math.Max(0, oxygen) * Size / FullOxygen;

    private static void Spawn(ref State s, ref LaneRandom random)
    {
        if (s.SpawnTimer == 0)
        {
            s.SpawnTimer = s.SpawnSpeed;
            var mover = Entering(ref random, s.MoveSpeed);
            var isSubmarine = random.Below(3) == 0;
            if (!Opposes(ref s.Fish, mover) && !Opposes(ref s.Submarines, mover))
            {
                if (isSubmarine)
                    s.Submarines.Add(mover);
                else
                    s.Fish.Add(mover);
            }
        }

        if (s.DiverTimer == 0)
        {
            s.DiverTimer = DiverInterval;
            s.Divers.Add(Entering(ref random, DiverRest));
        }
    }

    private static Mover Entering(ref LaneRandom random, int timer)
    {
        var direction = random.Sign();
        return new Mover
        {
            X = (sbyte)(direction > 0 ? 0 : LastCell), Y = (sbyte)(FirstRow + random.Below(LastRow)), Direction = (sbyte)direction,
            Timer = (sbyte)timer, ShotTimer = EnemyShotRest,
        };
    }

    private static bool Opposes(ref MoverList list, in Mover mover)
    {
        for (var i = 0; i < list.Count; i++)
        {
            if (list[i].Y == mover.Y && list[i].Direction != mover.Direction)
                return true;
        }

        return false;
    }

    private static void Act(ref State s, int action)
    {
        if (action == Fire && s.ShotTimer == 0)
        {
            s.ShotTimer = ShotRest;
            s.Bullets.Add(new Mover { X = (sbyte)s.X, Y = (sbyte)s.Y, Direction = (sbyte)s.Facing });
        }

        (s.X, s.Y) = (MoveX(s.X, action), MoveY(s.Y, action, Surface, LastRow));
        s.Facing = action switch { Left => -1, Right => 1, _ => s.Facing };
    }

    private static int MoveBullets(ref State s)
    {
        var reward = 0;
        for (var i = s.Bullets.Count - 1; i >= 0; i--)
        {
            ref var bullet = ref s.Bullets[i];
            bullet.X += bullet.Direction;
            if (bullet.IsOutside)
            {
                s.Bullets.RemoveAt(i);
            }
            else if (s.Fish.RemoveFrom(bullet.X, bullet.Y) || s.Submarines.RemoveFrom(bullet.X, bullet.Y))
            {
                s.Bullets.RemoveAt(i);
                reward++;
            }
        }

        return reward;
    }

    private static void MoveDivers(ref State s)
    {
        for (var i = s.Divers.Count - 1; i >= 0; i--)
        {
            ref var diver = ref s.Divers[i];
            if (PickUp(ref s, i))
                continue;
            if (diver.Timer > 0)
            {
                diver.Timer--;
                continue;
            }

            diver.Timer = DiverRest;
            diver.X += diver.Direction;
            if (diver.IsOutside)
                s.Divers.RemoveAt(i);
            else
                PickUp(ref s, i);
        }
    }

    private static bool PickUp(ref State s, int diver)
    {
        if (s.Aboard >= MostDivers || !s.Divers[diver].IsAt(s.X, s.Y))
            return false;
        s.Aboard++;
        s.Divers.RemoveAt(diver);
        return true;
    }

    private static (int Reward, bool Ends) MoveEnemies(ref State s, ref MoverList enemies, bool shoot)
    {
        var (reward, ends) = (0, false);
        for (var i = enemies.Count - 1; i >= 0; i--)
        {
            ref var enemy = ref enemies[i];
            ends |= enemy.IsAt(s.X, s.Y);
            if (enemy.Timer == 0)
            {
                enemy.Timer = (sbyte)s.MoveSpeed;
                enemy.X += enemy.Direction;
                if (enemy.IsOutside)
                {
                    enemies.RemoveAt(i);
                    continue;
                }

                if (enemy.IsAt(s.X, s.Y))
                {
                    ends = true;
                }
                else if (s.Bullets.RemoveFrom(enemy.X, enemy.Y))
                {
                    enemies.RemoveAt(i);
                    reward++;
                    continue;
                }
            }
            else
            {
                enemy.Timer--;
            }

            if (!shoot)
                continue;
            if (enemy.ShotTimer == 0)
            {
                enemy.ShotTimer = EnemyShotRest;
                s.EnemyBullets.Add(new Mover { X = enemy.X, Y = enemy.Y, Direction = enemy.Direction });
            }
            else
            {
                enemy.ShotTimer--;
            }
        }

        return (reward, ends);
    }

    private static bool MoveEnemyBullets(ref State s)
    {
        var ends = false;
        for (var i = s.EnemyBullets.Count - 1; i >= 0; i--)
        {
            ref var bullet = ref s.EnemyBullets[i];
            ends |= bullet.IsAt(s.X, s.Y);
            bullet.X += bullet.Direction;
            if (bullet.IsOutside)
                s.EnemyBullets.RemoveAt(i);
            else
                ends |= bullet.IsAt(s.X, s.Y);
        }

        return ends;
    }

    // With six divers they are all worth what air is left; otherwise one of them pays for the new air. Of six that one is taken too, and
    // −1 are left: so it is in the original, and scores depend on it.
    private int Emerge(ref State s)
    {
        var reward = 0;
        s.AtSurface = true;
        if (s.Aboard == MostDivers)
            (reward, s.Aboard) = (Bars(s.Oxygen), 0);
        s.Oxygen = FullOxygen;
        s.Aboard--;
        if (ramping && (s.SpawnSpeed > 1 || s.MoveSpeed > FastestMoveSpeed))
        {
            if (s.MoveSpeed > FastestMoveSpeed && s.RampIndex % 2 == 1)
                s.MoveSpeed--;
            if (s.SpawnSpeed > 1)
                s.SpawnSpeed--;
            s.RampIndex++;
        }

        return reward;
    }
}
