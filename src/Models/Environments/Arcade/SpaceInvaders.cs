namespace AuxCore.Models;

/// <summary>Space Invaders: a wave of 24 aliens that moves as one.</summary>
internal sealed class SpaceInvaders(int lanes, bool ramping = true) : ArcadeRules(channels: 6)
{
    public const int ShotRest = 5, EnemyShotRest = 10, FirstInterval = 12, ShortestInterval = 6, WaveRows = 4;
    public const ushort WaveRow = 0b0011111100; // columns 2 to 7
    private const int CannonChannel = 0, AlienChannel = 1, LeftChannel = 2, RightChannel = 3, BulletChannel = 4, EnemyBulletChannel = 5;

    public struct State
    {
        public int Cannon, Direction, ShotTimer, AlienTimer, EnemyShotTimer, Interval;
        public GridBits Aliens, Bullets, EnemyBullets;
    }

    public State[] Lanes { get; } = new State[lanes];

    public override void Start(int lane, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        s = new State { Cannon = 5, Direction = -1, AlienTimer = FirstInterval, EnemyShotTimer = EnemyShotRest, Interval = FirstInterval };
        Refill(ref s);
    }

    public override (int Reward, bool Ends) Step(int lane, int action, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        if (action == Fire && s.ShotTimer == 0)
        {
            s.Bullets.Add(s.Cannon, LastCell);
            s.ShotTimer = ShotRest;
        }

        s.Cannon = MoveX(s.Cannon, action);
        s.Bullets.MoveUp();
        s.EnemyBullets.MoveDown();
        var ends = s.EnemyBullets.Has(s.Cannon, LastCell) || s.Aliens.Has(s.Cannon, LastCell);
        if (s.AlienTimer == 0)
            ends |= March(ref s);
        if (s.EnemyShotTimer == 0)
        {
            s.EnemyShotTimer = EnemyShotRest;
            Shoot(ref s);
        }

        var reward = 0;
        for (var y = 0; y < Size; y++)
        {
            var hit = (ushort)(s.Aliens[y] & s.Bullets[y]);
            s.Aliens[y] ^= hit;
            s.Bullets[y] ^= hit;
            reward += System.Numerics.BitOperations.PopCount(hit);
        }

        s.ShotTimer = Math.Max(0, s.ShotTimer - 1);
        s.AlienTimer--;
        s.EnemyShotTimer--;
        if (s.Aliens.Count() == 0)
        {
            if (ramping && s.Interval > ShortestInterval)
                s.Interval--;
            Refill(ref s);
        }

        return (reward, ends);
    }

    public override void Observe(int lane, Picture picture)
    {
        ref readonly var s = ref Lanes[lane];
        picture.Set(CannonChannel, s.Cannon, LastCell);
        picture.Set(AlienChannel, s.Aliens);
        picture.Set(s.Direction < 0 ? LeftChannel : RightChannel, s.Aliens);
        picture.Set(BulletChannel, s.Bullets);
        picture.Set(EnemyBulletChannel, s.EnemyBullets);
    }

    // The wave's move; true where it ends the game.
    private static bool March(ref State s)
    {
        s.AlienTimer = Math.Min(s.Aliens.Count(), s.Interval);
        var wall = s.Direction < 0 ? 1 : 1 << LastCell;
        var atWall = false;
        foreach (var row in s.Aliens)
            atWall |= (row & wall) != 0;
        if (atWall)
        {
            s.Direction = -s.Direction;
            var landed = s.Aliens[LastCell] != 0;
            s.Aliens.MoveDown();
            return landed || s.Aliens.Has(s.Cannon, LastCell);
        }

        for (var y = 0; y < Size; y++)
            s.Aliens[y] = (ushort)(s.Direction < 0 ? s.Aliens[y] >> 1 : s.Aliens[y] << 1);
        return s.Aliens.Has(s.Cannon, LastCell);
    }

    // The lowest alien of the column nearest to the cannon.
    private static void Shoot(ref State s)
    {
        var columns = 0;
        foreach (var row in s.Aliens)
            columns |= row;
        var nearest = -1;
        for (var x = 0; x < Size; x++)
        {
            if ((columns >> x & 1) != 0 && (nearest < 0 || Math.Abs(x - s.Cannon) < Math.Abs(nearest - s.Cannon)))
                nearest = x;
        }

        for (var y = LastCell; y >= 0 && nearest >= 0; y--)
        {
            if (!s.Aliens.Has(nearest, y))
                continue;
            s.EnemyBullets.Add(nearest, y);
            return;
        }
    }

    private static void Refill(ref State s)
    {
        for (var y = 0; y < WaveRows; y++)
            s.Aliens[y] = WaveRow;
    }
}
