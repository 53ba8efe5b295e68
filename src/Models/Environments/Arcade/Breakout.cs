namespace AuxCore.Models;

/// <summary>Breakout: the ball moves diagonally, one cell a step.</summary>
internal sealed class Breakout(int lanes) : ArcadeRules(channels: 4)
{
    private const int PaddleChannel = 0, BallChannel = 1, TrailChannel = 2, BrickChannel = 3;
    private const int FirstBrickRow = 1, LastBrickRow = 3;

    public struct State
    {
        public int Paddle, BallX, BallY, TrailX, TrailY, DirectionX, DirectionY;
        public bool Striking; // whether the last step's cell was a brick: then the next brick is passed through
        public GridBits Bricks;
    }

    public State[] Lanes { get; } = new State[lanes];

    public override void Start(int lane, ref LaneRandom random)
    {
        var direction = random.Sign();
        var x = direction > 0 ? 0 : LastCell;
        ref var s = ref Lanes[lane];
        s = new State { Paddle = 4, BallX = x, BallY = 3, TrailX = x, TrailY = 3, DirectionX = direction, DirectionY = 1 };
        Refill(ref s);
    }

    public override (int Reward, bool Ends) Step(int lane, int action, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        s.Paddle = MoveX(s.Paddle, action);
        (s.TrailX, s.TrailY) = (s.BallX, s.BallY);
        var (x, y) = (s.BallX + s.DirectionX, s.BallY + s.DirectionY);
        if ((uint)x >= Size)
        {
            x = Math.Clamp(x, 0, LastCell);
            s.DirectionX = -s.DirectionX;
        }

        var (reward, ends, strikes) = (0, false, false);
        if (y < 0)
        {
            y = 0;
            s.DirectionY = -s.DirectionY;
        }
        else if (s.Bricks.Has(x, y))
        {
            strikes = true;
            if (!s.Striking)
            {
                reward = 1;
                s.Bricks.Remove(x, y);
                (y, s.DirectionY) = (s.BallY, -s.DirectionY);
            }
        }
        else if (y == LastCell)
        {
            if (s.Bricks.Count() == 0)
                Refill(ref s);
            if (s.BallX == s.Paddle)
                (y, s.DirectionY) = (s.BallY, -s.DirectionY);
            else if (x == s.Paddle)
                (y, s.DirectionX, s.DirectionY) = (s.BallY, -s.DirectionX, -s.DirectionY);
            else
                ends = true;
        }

        (s.BallX, s.BallY, s.Striking) = (x, y, strikes);
        return (reward, ends);
    }

    public override void Observe(int lane, Picture picture)
    {
        ref readonly var s = ref Lanes[lane];
        picture.Set(PaddleChannel, s.Paddle, LastCell);
        picture.Set(BallChannel, s.BallX, s.BallY);
        picture.Set(TrailChannel, s.TrailX, s.TrailY);
        picture.Set(BrickChannel, s.Bricks);
    }

    private static void Refill(ref State s)
    {
        for (var y = FirstBrickRow; y <= LastBrickRow; y++)
            s.Bricks[y] = GridBits.FullRow;
    }
}
