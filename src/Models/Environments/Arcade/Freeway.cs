using System.Runtime.CompilerServices;

namespace AuxCore.Models;

/// <summary>Freeway: car i drives along row i + 1; a speed is the number of steps between two moves.</summary>
internal sealed class Freeway(int lanes) : ArcadeRules(channels: 7)
{
    public const int Cars = 8, Column = 4, StartRow = 9, Rest = 3, LastStep = 2500, Slowest = 5;
    private const int ChickenChannel = 0, CarChannel = 1, FirstSpeedChannel = 2;

    public struct Car
    {
        public sbyte X, Direction, Speed, Timer;
    }

    [InlineArray(Cars)]
    public struct CarList
    {
        private Car _first;
    }

    public struct State
    {
        public int Row, MoveTimer, StepsLeft;
        public CarList Cars;
    }

    public State[] Lanes { get; } = new State[lanes];

    public override void Start(int lane, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        s = new State { Row = StartRow, MoveTimer = Rest, StepsLeft = LastStep };
        DrawSpeeds(ref s, ref random);
    }

    public override (int Reward, bool Ends) Step(int lane, int action, ref LaneRandom random)
    {
        ref var s = ref Lanes[lane];
        if (action is Up or Down && s.MoveTimer == 0)
            (s.Row, s.MoveTimer) = (MoveY(s.Row, action, 0, StartRow), Rest);
        var reward = 0;
        if (s.Row == 0)
        {
            (reward, s.Row) = (1, StartRow);
            DrawSpeeds(ref s, ref random);
        }

        for (var i = 0; i < Cars; i++)
        {
            ref var car = ref s.Cars[i];
            Collide(ref s, i, car);
            if (car.Timer > 0)
            {
                car.Timer--;
                continue;
            }

            (car.Timer, car.X) = (car.Speed, Wrapped(car.X + car.Direction));
            Collide(ref s, i, car);
        }

        s.MoveTimer = Math.Max(0, s.MoveTimer - 1);
        return (reward, --s.StepsLeft < 0);
    }

    public override void Observe(int lane, Picture picture)
    {
        ref readonly var s = ref Lanes[lane];
        picture.Set(ChickenChannel, Column, s.Row);
        for (var i = 0; i < Cars; i++)
        {
            var car = s.Cars[i];
            picture.Set(CarChannel, car.X, i + 1);
            picture.Set(FirstSpeedChannel + car.Speed - 1, Wrapped(car.X - car.Direction), i + 1);
        }
    }

    private static void Collide(ref State s, int car, in Car place)
    {
        if (s.Row == car + 1 && place.X == Column)
            s.Row = StartRow;
    }

    private static sbyte Wrapped(int x) => (sbyte)((x + Size) % Size);

    private static void DrawSpeeds(ref State s, ref LaneRandom random)
    {
        for (var i = 0; i < Cars; i++)
        {
            ref var car = ref s.Cars[i];
            car.Speed = car.Timer = (sbyte)(1 + random.Below(Slowest));
            car.Direction = (sbyte)random.Sign();
        }
    }
}
